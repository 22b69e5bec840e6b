from django.db import migrations, models


def mark_showings(apps, schema_editor):
    """Those by which somebody was qualified, or is being: till now only times told them apart."""
    Assignment = apps.get_model('annotator', 'Assignment')
    Membership = apps.get_model('annotator', 'Membership')
    asked = Membership.objects.filter(role='annotator', project__qualification_items__gt=0)
    for membership in asked.iterator():
        known = Assignment.objects.filter(
            project=membership.project_id, annotator=membership.user_id, comparison__purpose='gold'
        )
        if membership.qualification == 'pending':
            known = known.filter(created__gte=membership.qualification_changed)
        elif membership.qualification_share is not None:
            known = known.filter(created__lte=membership.qualification_changed)
        else:  # who had judged before, or whom an admin has qualified: they were asked in real work
            continue
        pks = list(known.values_list('pk', flat=True))
        Assignment.objects.filter(pk__in=pks).update(is_qualification=True)


class Migration(migrations.Migration):

    dependencies = [
        ('annotator', '0013_export_jobs'),
    ]

    operations = [
        migrations.AddField(
            model_name='assignment',
            name='is_qualification',
            field=models.BooleanField(default=False, editable=False),
        ),
        migrations.RunPython(mark_showings, migrations.RunPython.noop, elidable=True),
    ]
