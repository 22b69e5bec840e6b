"""What hostile files hold. A test sees by a folder that is made whether any of it was run."""

import os


class Bomb:
    """What a pickle may hold: a call, made when it is opened."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def code(marker):
    """A Python file, as a loading script or a model's own code would be."""
    return f"import os\nos.mkdir({str(marker)!r})\n"
