"""The rows of the fault matrix of this machine: F (files, processes) and R (resources)."""

from __future__ import annotations

from tests.reliability.rows import Row

ROWS: tuple[Row, ...] = (
    Row("F1", "The disk is too small when the space is reserved", "exit 9 before a byte of the body; the space is given back; "
        "other downloads are not affected"),
    Row("F2", "The disk becomes full in the middle, where nothing could be reserved", "exit 9; what came is kept, and the same "
        "command goes on once there is room"),
    Row("F3", "A store into a mapped page that the disk has no block for", "exit 9, never a death by signal"),
    Row("F4", "A file system that breaks its promise of reserved blocks (btrfs)", "nothing of it is ever mapped; exit 9 when "
        "it is full"),
    Row("F5", "Another program cuts the part file short while it is filled", "exit 10 at the next checkpoint, never a death by "
        "signal; the next run fetches what is lost"),
    Row("F6", "Another program removes or replaces the part file while it is filled", "exit 10 at the next checkpoint; the "
        "stranger's file is left alone"),
    Row("F7", "The part file is cut, removed, replaced or copied between two runs", "the download begins anew and never mixes"),
    Row("F8", "The disk reports an error when what was written is brought down to it", "exit 10; nothing since the last good "
        "checkpoint is believed"),
    Row("F9", "The folder or file system may not be written to, from the start or from the middle on", "exit 10, at the start "
        "before the server is asked; in the middle what came is kept"),
    Row("F10", "A file system that cannot reserve space (NFS, FUSE, FAT)", "a sparse file is used and blocks are never written "
        "to reserve them; too large a file ends with 9 before the download"),
    Row("F11", "A file system whose files cannot be mapped", "plain writes do all the work; without a map there is no journal, "
        "so a stop leaves nothing"),
    Row("F12", "A quota or the largest allowed file size is reached", "exit 9, never a death by SIGXFSZ; what came before is "
        "kept"),
    Row("F13", "The folder is removed or its disk is taken away in the middle", "exit 10 within 5 s of the next bytes"),
    Row("F14", "The folder lies on another disk than the program, its home and its temporary files", "the part file is always "
        "beside the file, so the last rename never crosses disks"),
    Row("F15", "The name has no room for its suffixes, or the path is too long", "exit 13 before the server is asked"),
    Row("F16", "Somebody planted a link where the file, its part file or its journal goes", "exit 13 (12 for the file itself); "
        "what the link leads to is untouched; --overwrite replaces a link and does not follow it"),
    Row("F17", "The target is a pipe, a device or a folder", "exit 13 before the server is asked"),
    Row("F18", "A generous or a strict umask", "the part file is for its owner alone until it is done, the journal always; the "
        "finished file is as the umask says"),
    Row("F19", "A second process downloads to the same file", "the second: exit 11 within 100 ms of its look; the first: "
        "unharmed; a killed process holds nothing"),
    Row("F20", "One queue has the same URL twice, or two URLs of one name", "one file is whole, the others end with 11 or 12; "
        "nothing is mixed"),
    Row("F21", "The journal is empty, cut short or random", "it is not believed and never has to be removed by hand; the "
        "download begins anew and ends with 0"),
    Row("F22", "The journal says that all is there, and the part file holds zeros", "the part file must be the one it was "
        "written for, and unwritten blocks are no data: the download begins anew"),
    Row("F23", "The journal claims more than there can be", "impossible rows claim nothing; reading takes at most 10 ms and "
        "8 MiB whatever the input"),
    Row("F24", "The journal's header is a msgpack bomb, or has values of wrong kinds", "it is damaged like any other"),
    Row("F25", "The journal belongs to another file, URL or version", "another file's: begun anew; another URL's: only if the "
        "content is proved to be the same; a newer version's: exit 20, untouched"),
    Row("F26", "The journal was torn at any byte", "an older truth or nothing, never more than there is"),
    Row("F27", "SIGKILL at any moment", "no wrong byte; at most 64 KiB for each connection come twice"),
    Row("F28", "SIGTERM or SIGINT, also while the disk is stuck", "exit 7 within a second; a second signal ends it at once"),
    Row("F29", "SIGHUP: the terminal was closed", "as SIGTERM"),
    Row("F30", "Stopped for a while and continued, with all sockets dead meanwhile", "connects again and ends with 0"),
    Row("F31", "The process is killed by the kernel, or aborts", "as SIGKILL"),
    Row("F32", "The power goes, and of what was not synced any part is lost", "nothing is believed that is not on disk"),
    Row("F33", "The power goes between the last rename and the journal's removal", "the next run removes the journal, and the "
        "file is untouched"),
    Row("F34", "The power goes right after exit 0", "data, name and folder were synced before, in this order"),
    Row("F35", "The disk says that it has written what it has not", "", left_out="no program can see it: every way to ask "
        "is answered by the same disk. --checksum compares what the system reads back"),
    Row("F36", "The wall clock jumps by a day", "nothing: waiting times come from a clock that cannot be set"),
    Row("F37", "The machine has booted anew since the journal was written", "the live page is not believed, the newest whole "
        "slot is"),
    Row("F38", "Part file and journal were copied to another place", "the copy is not the file that the journal was written "
        "for: begun anew"),
    Row("F39", "The embedding program forks in the middle of a download", "the child's calls raise at once, the parent is "
        "unharmed"),
    Row("F40", "Many threads download at once; a callback raises", "each thread's download is its own; the one whose callback "
        "raised ends with 1 and is kept, the others go on. A callback that blocks holds up its own queue, as "
        "documented; a `DownloadManager` has a thread for callbacks"),
    Row("F41", "The interpreter ends while a daemon thread downloads", "no crash; the next run goes on"),
    Row("F42", "The embedding program has its own handler for SIGBUS", "it gets the faults that are its own, and no others"),
    Row("F43", "The disk is stuck for seconds in a sync", "the loop never waits 100 ms for it; connections go on receiving"),
    Row("R1", "64 open files at most, and many downloads with many connections", "fewer connections; all of them finish"),
    Row("R2", "A file much larger than the memory that may be used", "at most 100 MiB resident, whatever the size"),
    Row("R3", "300 MB of address space", "done; where a window cannot be mapped plain writes take over"),
    Row("R4", "A file of 1 TB", "the journal stays under 64 KiB, memory does not grow, a look at what was left takes 100 ms"),
    Row("R5", "A queue of many thousand URLs", "at most 2 KiB for each; the first starts within 5 s; one failure does not "
        "stop the others and decides the exit code", deadline=60.0),
    Row("R6", "More segments than a journal has rows", "finished neighbours are one row; a checkpoint costs at most 5 ms of "
        "processor time"),
    Row("R7", "Sizes around 2^31, 2^32 and 2^63", "every byte at its place; what no disk holds ends with 9, what no number "
        "holds with 14"),
    Row("R8", "Nobody reads stdout; no columns; a terminal that knows ASCII alone", "the download is not affected, names are "
        "shown escaped"),
    Row("R9", "Lists of URLs with control characters, or URLs that look like options", "a URL is data: exit 2 before anything "
        "is done. Lists are read by the shell, as fastidm has no option for a file of URLs"),
    Row("R10", "The API is misused: closed twice, run again, stopped at odd moments, absurd numbers", "a documented error or "
        "nothing; no hang, nothing left open"),
    Row("R11", "A callback calls the API again; an event loop and threads share a process", "it works or raises at once"),
    Row("R12", "No memory left", "an error and an exit code, no crash; the next run goes on"),
    Row("R13", "The disk is slower than the network", "no more than a fixed amount waits for the disk, then the server waits"),
    Row("R14", "No processor time for seconds", "what arrived meanwhile counts: no time-out is blamed on the server"),
)  # fmt: skip
