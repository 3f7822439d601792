"""`python -m cnnray`: the command line."""

from cnnray.cli import main

main()
