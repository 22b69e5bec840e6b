import os
import subprocess
import sys

from django.conf import settings

SHOW = "import os; from annotator.priority import give_way; give_way(); print(os.getpriority(0, 0))"


def test_who_gives_way_comes_after_the_pages():
    script = f"import django; django.setup(); {SHOW}"
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "config.settings"}

    shown = subprocess.check_output(
        [sys.executable, "-c", script], cwd=settings.BASE_DIR, env=environment, text=True
    )

    assert int(shown) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + settings.RUN_NICENESS)
