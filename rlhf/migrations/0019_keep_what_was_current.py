from django.db import migrations

REASON = "It was current before versions became current by gates only."


def keep_what_was_current(apps, schema_editor):
    """Where the newest round's policy was current without a gate, clients go on getting it."""
    projects = apps.get_model("annotator", "Project").objects.filter(promotions=None)
    promotions = apps.get_model("rlhf", "Promotion").objects
    for project in projects.iterator():
        newest = project.rounds.order_by("-number").first()
        if newest and newest.number > 1:
            promotions.create(
                project=project, number=1, version_id=newest.policy_id, reason=REASON
            )


class Migration(migrations.Migration):
    dependencies = [
        ("rlhf", "0018_token_prices"),
    ]

    operations = [
        migrations.RunPython(keep_what_was_current, migrations.RunPython.noop),
    ]
