"""Python as on a laptop with Windows, as far as Linux can pretend: what only POSIX or Linux has is gone for the modules
of vitrail, in this process and in all that it starts, which are spawned. Libraries keep what they need."""

import importlib.abc
import importlib.machinery
import multiprocessing
import os
import signal
import sys
import types

ABSENT = {
    os: ("fork", "forkpty", "register_at_fork", "O_DIRECTORY", "O_NOFOLLOW", "memfd_create", "sched_getaffinity",
         "pread", "pwrite", "sysconf", "statvfs", "mkfifo", "getuid", "killpg", "setsid", "uname", "WNOHANG", "waitid"),
    signal: ("SIGCHLD", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGSTOP", "SIGKILL", "SIGHUP", "SIGALRM", "pthread_kill"),
}  # fmt: skip
NO_MODULES = ("fcntl", "resource", "termios", "pwd", "grp")
NO_FOLDERS = ("/proc", "/sys", "/dev/shm")


def poorer(module):
    copy = types.ModuleType(module.__name__)
    vars(copy).update({name: value for name, value in vars(module).items() if name not in ABSENT[module]})
    return copy


POOR = {module: poorer(module) for module in ABSENT}


class Loader(importlib.abc.Loader):
    def __init__(self, real):
        self.real = real

    def create_module(self, spec):
        return self.real.create_module(spec)

    def exec_module(self, module):
        self.real.exec_module(module)
        for name, value in list(vars(module).items()):
            if value is os or value is signal:
                setattr(module, name, POOR[value])


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] != "vitrail" or name == "vitrail.__main__":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = Loader(spec.loader)
        return spec


def refuse(event, given):
    if event == "open" and str(given[0]).startswith(NO_FOLDERS):
        caller = sys._getframe(1)
        for _ in range(4):  # through pathlib
            if caller is None:
                return
            if "/vitrail/" in caller.f_code.co_filename and "site-packages" not in caller.f_code.co_filename:
                raise FileNotFoundError(2, "No such file or directory", given[0])
            caller = caller.f_back


for absent in NO_MODULES:
    sys.modules[absent] = None
sys.meta_path.insert(0, Finder())
sys.addaudithook(refuse)
multiprocessing.set_start_method("spawn", force=True)
