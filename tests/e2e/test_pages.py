"""Every page, looked at by axe: contrast, names, roles, order of headings."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.e2e.test_loop import import_tiny_model, make_project, sign_in

pytestmark = pytest.mark.e2e

PAGES = (
    "", "compare/", "guidelines/", "comparisons/", "agreement/", "exports/", "runs/",
    "runs/new/ppo/", "runs/1/", "models/", "import/", "members/", "settings/",
)  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_hard_to_use_with_a_screen_reader_or_poor_sight(app, page, tiny_folder, scheme):
    page.emulate_media(color_scheme=scheme)
    sign_in(page)
    make_project(page)
    import_tiny_model(page, tiny_folder)

    found = {}
    for path in PAGES:
        response = page.goto(f"/projects/loop/{path}")
        violations = Axe().run(page).response["violations"]
        found[path] = (response.status, [violation["id"] for violation in violations])

    assert found == {path: (200, []) for path in PAGES}
