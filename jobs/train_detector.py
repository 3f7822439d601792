"""Train a detector on images with boxes on a cluster; resubmit the same command to resume.

    ray job submit --working-dir . -- python jobs/train_detector.py BOXES --out RUN [--workers N] [--gpu]

BOXES (COCO, Pascal VOC or YOLO) and RUN are paths or URIs that every node reaches. All options of `cnnray train
detect`. Hardware: --workers training processes, with --gpu each on one. Time: 262 images of blood cells take 17 minutes
for 34 epochs on two CPU cores, to an AP50 of 0.91 (see benchmarks/RESULTS.md).
"""

import sys

from cnnray.cli import main

if __name__ == "__main__":
    main(["train", "detect", *sys.argv[1:]])
