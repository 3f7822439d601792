"""Train a classifier head on stored features on a cluster; resubmit the same command to resume.

    ray job submit --working-dir . -- python jobs/train_classifier.py RUN --out RUN2 [--workers N] [--gpu]

RUN is a finished features run, RUN2 a path or URI that every node reaches. All options of `cnnray train classify`.
Hardware: any; a head on 2,640 stored features trains in under a minute on one CPU core.
"""

import sys

from cnnray.cli import main

if __name__ == "__main__":
    main(["train", "classify", *sys.argv[1:]])
