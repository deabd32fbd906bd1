"""What Pare remembers: the tables, their migrations, and the files.

The store knows nobody here: no engine, no jobs, no Flask. JSON columns hold what others dump into them,
files are bytes under their SHA-256, and neither is interpreted. It works the same on SQLite and PostgreSQL,
in a folder and in an object store.
"""
