"""A throttled file server to try fastidm on, and a demonstration of it; a program of its own: `python -m fastidm.demo`.

Rules of this package: the standard library and the package's vocabulary (`errors`, `options`) alone. It is no part of
the download engine: nothing imports it, and it starts the real command as a user would, as a child process.

    content.py   the bytes of the file, computed for any place in it
    protocol.py  HTTP/1.1 as text: what was asked, what to answer
    server.py    sockets, and an honest rate for each connection
    process.py   the server as a child process
    show.py      download, kill half-way, resume, verify
"""
