"""`python -m multiverse`: the same as the command `multiverse`. Everything it does lives in cli.py."""

from multiverse.cli import main

main()
