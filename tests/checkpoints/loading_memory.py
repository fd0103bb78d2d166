"""Memory that loading a folder takes, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

MEASURE = """
import sys, threading, time, torch
from hyla.checkpoints import load_model

def anonymous():
    text = open("/proc/self/status").read()
    return int(text.split("RssAnon:")[1].split()[0]) * 1024

load_model(sys.argv[1])  # warm up: lazy imports and allocator
base, peak, done = anonymous(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.0005)

watcher = threading.Thread(target=watch)
watcher.start()
model = load_model(sys.argv[2])
done = True
watcher.join()
print(peak - base, anonymous() - base, int("sympy" in sys.modules))
"""


def measure_loading(small: Path, large: Path) -> tuple[int, int, bool]:
    """(most bytes at any time, bytes at the end, whether a symbolic algebra system was imported) of loading `large`."""
    command = [sys.executable, "-c", MEASURE, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, final, is_sympy_imported = map(int, done.stdout.split())
    return peak, final, bool(is_sympy_imported)
