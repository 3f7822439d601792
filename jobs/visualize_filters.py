"""Show what the filters of a network look for, over a whole data set, on a cluster; resubmit the same to resume.

    ray job submit --working-dir . -- python jobs/visualize_filters.py SRC --out RUN [--backbone NAME] [--gpu]

SRC and RUN are paths or URIs (s3://, gs://) that every node reaches; RUN/index.html shows the result. All options of
`cnnray visualize filters`. Hardware: one actor per GPU with --gpu, else one per node. Time: about that of
`cnnray features build` without compilation, and what is drawn: of each layer as many images as nine times --filters.
"""

import sys

from cnnray.cli import main

if __name__ == "__main__":
    main(["visualize", "filters", *sys.argv[1:]])
