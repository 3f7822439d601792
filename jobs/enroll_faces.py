"""Enrol folders of people into a gallery on a cluster; resubmit the same command to resume.

    ray job submit --working-dir . --runtime-env-json '{"env_vars": {"CNNRAY_RECORD": "URL"}}' \
        -- python jobs/enroll_faces.py SRC --gallery NAME --out RUN [--gpu]

SRC (a folder for each person, or a manifest) and RUN are paths or URIs that every node reaches; URL is a PostgreSQL
database that the job's driver reaches, or the absolute path of a SQLite file there (also --record URL, where no
password is to be seen). All options of `cnnray faces enroll`. Hardware: one actor per GPU with --gpu, else one per
node.
"""

import os
import sys

from cnnray.cli import main

if __name__ == "__main__":
    if "CNNRAY_RECORD" not in os.environ and not any(word.startswith("--record") for word in sys.argv):
        sys.exit("expected CNNRAY_RECORD or --record: the default is a file in the job's folder, which goes with it")
    main(["faces", "enroll", *sys.argv[1:]])
