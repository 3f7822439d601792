"""Enrol folders of people into a gallery on a cluster; resubmit the same command to resume.

    ray job submit --working-dir . -- python jobs/enroll_faces.py SRC --gallery NAME --record URL --out RUN [--gpu]

SRC (a folder for each person, or a manifest) and RUN are paths or URIs that every node reaches; URL is a PostgreSQL
database that the driver reaches, better given as CNNRAY_RECORD where it has a password. All options of
`cnnray faces enroll`. Hardware: one actor per GPU with --gpu, else one per node.
"""

import sys

from cnnray.cli import main

if __name__ == "__main__":
    main(["faces", "enroll", *sys.argv[1:]])
