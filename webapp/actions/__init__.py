"""What a person can do, whoever asks: upload, ask for a run, compare, share, deploy, package, delete.

Page, API and command line call the same function here. Nothing here knows Flask or a request: a function is given a
database session, the files and plain data, and raises an error of `errors` that says what was wrong and with which
field. It does no work itself that takes long: that is a job, and `jobs` and this room do not know each other.
"""
