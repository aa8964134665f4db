"""The journal: everything that a run logged, on the local disk before any tracker sees it.

recorder.py    what a Trainer talks to: runs, attempts, records
file.py        whose the file is, which kind, where it stands; what happens when the disk refuses or damages it
repetition.py  what a resumed run says again, and whether it says the same
writer.py      the SQLite file, `journal.db`         one connection, in the loop's thread
tail.py        its newest records, in memory that all processes share
lines.py       `journal.jsonl`, for network filesystems
view.py        either kind as one database, with all that was committed
reader.py      questions to it, for any number of readers in any process
schema.py      tables, statements, migrations
ownership.py   one writer at a time; nothing inherited is used after a fork
"""
