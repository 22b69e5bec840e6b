"""All settings, read from environment variables; a bad value stops the start with its name.

Every variable starts with PREFERENDUM_ except DATABASE_URL. docs/deploy.md lists them.
"""

import logging
import os
import secrets
import tempfile
from importlib.util import find_spec
from pathlib import Path
from zoneinfo import available_timezones

from csp.constants import NONE, SELF, UNSAFE_INLINE
from django.core.exceptions import ImproperlyConfigured
from environs import Env, ValidationError, validate

BASE_DIR = Path(__file__).resolve().parent.parent
env = Env()
env.read_env(str(BASE_DIR / ".env"), recurse=False)


def secret_key_from_file(path: Path) -> str:
    """The key kept beside the database, made on first use, so that a laptop needs no setting."""
    if not path.exists():
        # Web, worker and trainer may start at the same moment. The key gets its name when it is
        # written, and link() lets only the first of them win, so all read the same whole key.
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # readable by its owner only
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(50))
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(temporary)
    if not (key := path.read_text().strip()):
        raise ImproperlyConfigured(f"{path} is empty: delete it, or set PREFERENDUM_SECRET_KEY")
    return key


def data_dir(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImproperlyConfigured(
            f"PREFERENDUM_DATA_DIR={path} cannot be used: {error.strerror}"
        ) from error
    return path


def check_origins(origins: list[str]) -> None:
    for origin in origins:
        if not origin.startswith(("https://", "http://")):
            raise ValidationError(f"{origin!r} must start with https:// or http://")


def check_time_zone(name: str) -> None:
    if name not in available_timezones():
        raise ValidationError(f"{name!r} is no time zone; write it like Europe/Berlin")


def check_rate(rate: str) -> None:
    number, _, period = rate.partition("/")
    if rate and not (number.isdecimal() and int(number) and period in ("s", "min", "h", "day")):
        raise ValidationError(f"{rate!r} is no rate; write it like 600/min, or nothing")


def check_dotted_paths(paths: list[str]) -> None:
    for path in paths:
        if "." not in path or not all(part.isidentifier() for part in path.split(".")):
            raise ValidationError(
                f"{path!r} is not the dotted path of a function: package.module.name"
            )


def check_run_command(command: str) -> None:
    if command == "auto":
        return
    try:
        command.format(python="python", run_dir="run")
    except (KeyError, IndexError, ValueError) as error:
        raise ValidationError(f"braces other than {{python}} and {{run_dir}}: {error!r}") from error
    if "{run_dir}" not in command:
        raise ValidationError("it must contain {run_dir}")


# --- where things are -------------------------------------------------------------------------
DATA_DIR = data_dir(Path(env.str("PREFERENDUM_DATA_DIR", str(BASE_DIR / "var"))).resolve())
EXPORTS_DIR = DATA_DIR / "exports"
RUNS_DIR = DATA_DIR / "runs"
DATASETS_DIR = DATA_DIR / "datasets"
PROMPTS_DIR = DATA_DIR / "prompts"
DOCUMENTS_DIR = DATA_DIR / "documents"
MODELS_DIR = DATA_DIR / "models"

# --- security ---------------------------------------------------------------------------------
DEBUG = env.bool("PREFERENDUM_DEBUG", False)
SECRET_KEY = env.str(
    "PREFERENDUM_SECRET_KEY", "", validate=validate.Length(min=50)
) or secret_key_from_file(DATA_DIR / "secret_key")
ALLOWED_HOSTS = env.list(
    "PREFERENDUM_HOSTS", ["localhost", "127.0.0.1", "[::1]"], str.strip,
    validate=validate.Length(min=1),
)  # fmt: skip
CSRF_TRUSTED_ORIGINS: list[str] = env.list(
    "PREFERENDUM_ORIGINS", [], str.strip, validate=check_origins
)
# Plain http is for one's own machine: `make demo` switches this off, a server keeps it on.
HTTPS = env.bool("PREFERENDUM_HTTPS", not DEBUG)
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_HSTS_SECONDS = env.int(
    "PREFERENDUM_HSTS_SECONDS", 31_536_000 if HTTPS else 0, validate=validate.Range(min=0)
)
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
if env.bool("PREFERENDUM_BEHIND_PROXY", False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "style-src": [SELF, UNSAFE_INLINE],  # plotly positions its labels with inline styles
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}

# --- application ------------------------------------------------------------------------------
INSTALLED_APPS = [
    "annotator",
    "rlhf",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "csp",
    "django_htmx",
    "django_q",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "knox",
    "rest_framework",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]
AUTH_USER_MODEL = "annotator.User"
AUTHENTICATION_BACKENDS = ["annotator.backends.Backend"]
SESSION_ENGINE = "annotator.sessions"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "annotator:home"
LOGOUT_REDIRECT_URL = "login"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator",
                 "CommonPasswordValidator", "NumericPasswordValidator")
]  # fmt: skip
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- database ---------------------------------------------------------------------------------
DATABASES = {
    "default": env.dj_db_url(
        "DATABASE_URL",
        f"sqlite:///{DATA_DIR / 'db.sqlite3'}",
        conn_max_age=60,  # seconds
        conn_health_checks=True,
    ),
}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    DATABASES["default"]["ENGINE"] = "annotator.sqlite"
    DATABASES["default"]["TEST"] = {"NAME": ":memory:"}  # as it is for Django's own
    DATABASES["default"]["OPTIONS"] = {
        # A transaction that will write takes the write lock when it begins: two that both read
        # first and write later would otherwise fail with "database is locked", not wait.
        "transaction_mode": "IMMEDIATE",
        "timeout": 30,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
elif DATABASES["default"]["ENGINE"].endswith("postgresql"):
    DATABASES["default"]["ENGINE"] = "annotator.postgresql"

# --- language, time, files --------------------------------------------------------------------
LANGUAGE_CODE = "en"
TIME_ZONE = env.str("PREFERENDUM_TIME_ZONE", "UTC", validate=check_time_zone)
USE_TZ = True
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
_plotly = find_spec("plotly")
if _plotly is None or not _plotly.submodule_search_locations:
    raise ImproperlyConfigured("the package plotly is missing: pip install -c constraints.txt -e .")
STATICFILES_DIRS = [
    BASE_DIR / "static",
    ("plotly", Path(_plotly.submodule_search_locations[0]) / "package_data"),
]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 10 * 2**20
FILE_UPLOAD_TEMP_DIR = DATA_DIR  # on the disk where they will stay
FILE_UPLOAD_HANDLERS = ["annotator.imports.uploads.LimitedUpload"]
IMPORT_MAX_BYTES = (
    env.int("PREFERENDUM_IMPORT_MAX_MIB", 100, validate=validate.Range(min=1)) * 2**20
)

# Whether webhooks may go to this machine and its network: whoever is admin of a project enters them.
PRIVATE_WEBHOOKS = env.bool("PREFERENDUM_PRIVATE_WEBHOOKS", False)

# --- API ----------------------------------------------------------------------------------------
# Requests that one token, or one person who is signed in, may make; empty: as many as they like.
API_RATE = env.str("PREFERENDUM_API_RATE", "1200/min", validate=check_rate)
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "annotator.api.auth.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": [
        "rest_framework.permissions.IsAuthenticated",
        "annotator.api.auth.MayReadOrManage",
    ],
    "DEFAULT_THROTTLE_CLASSES": ["annotator.api.auth.Rate"],
    "DEFAULT_PARSER_CLASSES": ["annotator.api.parsers.JSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_METADATA_CLASS": None,
    "URL_FORMAT_OVERRIDE": None,
    "EXCEPTION_HANDLER": "annotator.api.problems.answer_with_problem",
}
KNOX_TOKEN_MODEL = "knox.AuthToken"  # noqa: S105
REST_KNOX = {
    "AUTH_HEADER_PREFIX": "Bearer",
    "TOKEN_PREFIX": "pref_",  # so that a secret that got into a repository is found there
}
API_TAGS = (  # in the order of the page
    "projects", "imports", "prompts", "completions", "comparisons", "assignments", "judgments",
    "quality", "leaderboard", "exports", "datasets", "runs", "models", "prompting", "documents",
    "rounds", "routes", "candidates", "gates", "current", "lineage", "audit",
)  # fmt: skip
SPECTACULAR_SETTINGS = {
    "OAS_VERSION": "3.1.0",
    "TITLE": "Preferendum",
    "VERSION": "1",
    "DESCRIPTION": "What the pages do, for programs. docs/api.md is the guide.",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "TAGS": [{"name": name} for name in API_TAGS],
    "COMPONENT_SPLIT_REQUEST": True,
    "SERVE_INCLUDE_SCHEMA": False,
    "POSTPROCESSING_HOOKS": ["annotator.api.schema.add_what_all_share"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    # With deepLinking each button would have a link inside, which screen readers cannot tell apart.
    "SWAGGER_UI_SETTINGS": {"deepLinking": False, "docExpansion": "list", "tryItOutEnabled": False},
}

# --- background work --------------------------------------------------------------------------
# django-q2 facts that bite: `retry` must exceed `timeout` or a long task starts twice, and
# max_attempts 0 means for ever. A run is supervised by one task of the `training` cluster.
Q_CLUSTER = {
    "name": "default",
    "orm": "default",
    "workers": 2,  # one of them may be busy with an import for long
    "timeout": 600,
    "retry": 660,
    "max_attempts": 1,
    "ack_failures": True,
    "poll": 0.5,
    "save_limit": 500,
    "catch_up": False,
    "ALT_CLUSTERS": {
        "training": {
            "workers": 1,  # runs one after the other: they share the processor or the GPU
            "recycle": 1,  # a fresh process per run
            "daemonize_workers": False,
            "timeout": 14 * 24 * 3600,
            "retry": 15 * 24 * 3600,
            "max_attempts": 1,
            "ack_failures": True,
            "poll": 0.5,
        },
    },
}
check_redis_url = validate.URL(schemes={"redis", "rediss", "unix"}, require_tld=False)
if redis_url := env.str("PREFERENDUM_REDIS_URL", "", validate=check_redis_url):
    del Q_CLUSTER["orm"]
    Q_CLUSTER["redis"] = redis_url

# --- the demo on one's own machine -------------------------------------------------------------
DEMO_PORT = env.int("PREFERENDUM_PORT", 8000, validate=validate.Range(min=1, max=65535))

# --- runs -------------------------------------------------------------------------------------
# {python} and {run_dir} are filled in; put `accelerate launch …`, a container or a batch system
# here. The command must stay in the foreground until the run ends. "auto" is `{python} -m rlhf.training
# {run_dir}`, in the sandbox of bin/apart where that works.
RUN_COMMAND = env.str("PREFERENDUM_RUN_COMMAND", "auto", validate=check_run_command)
# Files of `accelerate config`, of which an admin may pick one for a run in several processes.
ACCELERATE_DIR = Path(env.str("PREFERENDUM_ACCELERATE_DIR", str(DATA_DIR / "accelerate")))
# The functions that a PPO run may call for rewards, and nothing else: they are code.
REWARD_FUNCTIONS: list[str] = env.list(
    "PREFERENDUM_REWARD_FUNCTIONS", [], str.strip, validate=check_dotted_paths
)
# More tasks for lm-evaluation-harness. Their files may name code, so no project's admin puts them there.
LM_EVAL_TASKS = Path(env.str("PREFERENDUM_LM_EVAL_TASKS", str(DATA_DIR / "lm_eval_tasks")))
# Whom the server may ask for a project's admins. Names and addresses of other machines are for the
# owner of this one to allow: they could be of its own network.
ENDPOINT_HOSTS: list[str] = env.list(
    "PREFERENDUM_ENDPOINT_HOSTS", ["localhost", "127.0.0.1", "[::1]"], str.strip
)
RUN_MEMORY_LIMIT_MIB = env.int(  # 0: no limit
    "PREFERENDUM_RUN_MEMORY_LIMIT_MIB", 0, validate=validate.Range(min=0)
)
RUN_FILE_LIMIT_MIB = env.int(  # of one file; 0: no limit
    "PREFERENDUM_RUN_FILE_LIMIT_MIB", 0, validate=validate.Range(min=0)
)
RUN_TMP_LIMIT_MIB = (
    env.int(  # of /tmp, and of /dev/shm, in the sandbox, which are memory; 0: no limit
        "PREFERENDUM_RUN_TMP_LIMIT_MIB", 2048, validate=validate.Range(min=0)
    )
)
# A user without privileges that runs are started as, by a trainer that may change users.
RUN_USER = env.str("PREFERENDUM_RUN_USER", "")
# A pickle can run code when it is opened; with this, imports read weights from pickles, and nothing else.
ALLOW_PICKLED_WEIGHTS = env.bool("PREFERENDUM_ALLOW_PICKLED_WEIGHTS", False)
RUN_TIME_LIMIT_HOURS = env.float(
    "PREFERENDUM_RUN_TIME_LIMIT_HOURS",
    14 * 24.0,
    validate=validate.Range(min=0, min_inclusive=False),
)
# Before a training run starts, what it learns from and nobody has screened is screened by the trainer.
SCREEN_FIRST = env.bool("PREFERENDUM_SCREEN_FIRST", True)
# After each training that makes a policy, in projects that have not chosen otherwise.
SUITE_AFTER_TRAINING = env.bool("PREFERENDUM_SUITE_AFTER_TRAINING", True)
RUN_NICENESS = env.int("PREFERENDUM_RUN_NICENESS", 5, validate=validate.Range(min=0, max=19))

# --- the model server -------------------------------------------------------------------------
MODEL_SERVER_SOCKET = DATA_DIR / "model_server.sock"
MODEL_SERVER_IDLE_MINUTES = env.float(  # then the process with the models ends
    "PREFERENDUM_MODEL_SERVER_IDLE_MINUTES", 5.0, validate=validate.Range(min=0)
)
# At the same time. Each holds a thread of a web process: one of its four stays free for pages.
MODEL_SERVER_MAX_REQUESTS = env.int(
    "PREFERENDUM_MODEL_SERVER_MAX_REQUESTS", 3, validate=validate.Range(min=1)
)

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {
        "handlers": ["console"],
        "level": env.log_level("PREFERENDUM_LOG_LEVEL", logging.INFO),
    },
    "loggers": {
        "django.request": {"level": "ERROR"},  # a page that is not there is no warning
        "httpx": {"level": "WARNING"},  # a request that went well is no news
    },
}
