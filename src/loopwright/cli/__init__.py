"""The command `loopwright`: one file for each of its commands."""
