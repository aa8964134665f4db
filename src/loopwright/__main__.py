"""`python -m loopwright`: the command line."""

from loopwright.cli.main import main

main()
