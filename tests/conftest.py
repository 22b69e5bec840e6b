"""What all tests share."""

import os

# Read when torch is first imported. Threads that spin while they wait make everything that wants
# the same cores many times slower: other test workers, a browser, the run that a test watches.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
