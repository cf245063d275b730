"""Host names that lead where a test wants, for a command of its own: a small library before libc's `getaddrinfo`.

Rules of this module: it needs a C compiler and Linux's LD_PRELOAD; without them the tests that want it are skipped. Nothing of
the machine's resolver is touched. A name is a list of addresses, tried in that order, or `HANGS`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HANGS = "hang"

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    lookup *real = (lookup *)dlsym(RTLD_NEXT, "getaddrinfo");
    const char *names = getenv("TEST_NAMES");
    size_t length = host ? strlen(host) : 0;
    char list[512] = "";
    while (names && *names && length) {               /* name=address,address;name=address */
        const char *end = strchrnul(names, ';');
        if (strncmp(names, host, length) == 0 && names[length] == '=' && end - names - length - 1 < sizeof list)
            memcpy(list, names + length + 1, (size_t)(end - names) - length - 1);
        names = *end ? end + 1 : end;
    }
    if (!*list)
        return real(host, service, hints, found);
    if (strcmp(list, "hang") == 0) {
        sleep(3600);
        return EAI_AGAIN;
    }
    struct addrinfo **next = found;
    *found = NULL;
    char *rest = NULL;
    for (char *one = strtok_r(list, ",", &rest); one; one = strtok_r(NULL, ",", &rest)) {
        if (real(one, service, hints, next) == 0)
            while (*next)
                next = &(*next)->ai_next;
    }
    return *found ? 0 : EAI_NONAME;
}
"""


def build(folder: Path) -> Path | None:
    """The library, made in `folder`; None where it cannot be made."""
    library = folder / "names.so"
    (folder / "names.c").write_text(SOURCE)
    words = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(folder / "names.c"), "-ldl"]
    try:
        made = sys.platform == "linux" and subprocess.run(words, capture_output=True).returncode == 0
    except FileNotFoundError:
        made = False
    return library if made else None


def environment(library: Path, **names: str) -> dict[str, str]:
    """The variables of a command for which each name in `names` (with "_" for ".") leads to its addresses."""
    listed = ";".join(f"{name.replace('_', '.')}={addresses}" for name, addresses in names.items())
    return {"LD_PRELOAD": str(library), "TEST_NAMES": listed}
