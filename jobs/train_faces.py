"""Train an embedder of faces on folders of people on a cluster; resubmit the same command to resume.

    ray job submit --working-dir . -- python jobs/train_faces.py PEOPLE --out RUN [--loss triplet] [--workers N] [--gpu]

PEOPLE (a folder for each) and RUN are paths or URIs that every node reaches. All options of `cnnray train faces`.
Hardware: --workers training processes, with --gpu each on one. Time: 43 to 48 s for the people of the benchmark on two
CPU cores, to a rank-1 accuracy of 1.0 with the triplet loss (see benchmarks/RESULTS.md).
"""

import sys

from cnnray.cli import main

if __name__ == "__main__":
    main(["train", "faces", *sys.argv[1:]])
