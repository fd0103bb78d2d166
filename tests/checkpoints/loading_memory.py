"""Memory that loading a folder takes, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

MEASURE = """
import sys, threading, time, torch
from hyla.checkpoints import load_model

pack = sys.argv[3] == "pack"
kinds = ("RssAnon:", "RssFile:") if pack else ("RssAnon:",)

def resident():
    text = open("/proc/self/status").read()
    return sum(int(text.split(kind)[1].split()[0]) * 1024 for kind in kinds)

load_model(sys.argv[1], pack=pack)  # warm up: lazy imports and allocator
base, peak, done = resident(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, resident())
        time.sleep(0.0005)

watcher = threading.Thread(target=watch)
watcher.start()
model = load_model(sys.argv[2], pack=pack)
done = True
watcher.join()
print(peak - base, resident() - base, int("sympy" in sys.modules))
"""


def measure_loading(small: Path, large: Path, *, pack: bool = False) -> tuple[int, int, bool]:
    """(most bytes at any time, bytes at the end, whether a symbolic algebra system was imported) of loading `large`.

    pack: into tiles; the pages of the mapped file count, too, then.
    """
    command = [sys.executable, "-c", MEASURE, str(small), str(large), "pack" if pack else "plain"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, final, is_sympy_imported = map(int, done.stdout.split())
    return peak, final, bool(is_sympy_imported)
