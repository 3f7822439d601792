"""Measure a checkpoint on labelled images on a cluster; resubmit the same command to resume.

    ray job submit --working-dir . -- python jobs/evaluate.py classify CHECKPOINT SRC --out RUN [--gpu]

The first word is what is measured: classify, detect, segment or faces; the rest are arguments and options of `cnnray
evaluate` for it. CHECKPOINT, SRC and RUN are paths or URIs that every node reaches. Hardware: one actor per GPU with
--gpu, else one per node. Time: for classes about that of `cnnray features build` without compilation.
"""

import sys

from cnnray.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
