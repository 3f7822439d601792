"""Precompute frozen-backbone features on a cluster; resubmit the same command to resume.

    ray job submit --working-dir . -- python jobs/precompute_features.py SRC --out RUN [--views K] [--gpu]

SRC and RUN are paths or URIs (s3://, gs://) that every node reaches. All options of `cnnray features build`.
Hardware: one actor per GPU with --gpu, else one per node. Time: 2,640 photos of 348x348 take about a minute on two
CPU cores, start-up included (see benchmarks/RESULTS.md).
"""

import sys

from cnnray.cli import main

if __name__ == "__main__":
    main(["features", "build", *sys.argv[1:]])
