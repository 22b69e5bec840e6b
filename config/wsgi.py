"""The WSGI application that gunicorn serves."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
application = get_wsgi_application()

from annotator.version import code_version  # noqa: E402  (needs the settings)

# Each showing says which version showed it. Asked now: git takes a moment, in which the first page
# would have to wait, and it is this code that runs until the process ends.
code_version()
