
import django.db.models.deletion
import django.utils.timezone
import uuid
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('annotator', '0009_imports'),
    ]

    operations = [
        migrations.AddField(
            model_name='project',
            name='judgment_webhooks',
            field=models.JSONField(blank=True, default=list, editable=False),
        ),
        migrations.CreateModel(
            name='Webhook',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('url', models.CharField(max_length=500)),
                ('events', models.JSONField(default=list)),
                ('agreement_below', models.FloatField(blank=True, null=True)),
                ('is_agreement_low', models.BooleanField(default=False, editable=False)),
                ('secret', models.TextField(editable=False)),
                ('failing_since', models.DateTimeField(editable=False, help_text='The first failed try since the last good one.', null=True)),
                ('paused', models.DateTimeField(editable=False, null=True)),
                ('pause_reason', models.CharField(blank=True, editable=False, max_length=300)),
                ('removed', models.DateTimeField(editable=False, null=True)),
                ('created', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('created_by', models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('project', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='webhooks', to='annotator.project')),
            ],
            options={
                'ordering': ['pk'],
            },
        ),
        migrations.CreateModel(
            name='Delivery',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('message_id', models.UUIDField(default=uuid.uuid4, editable=False)),
                ('event', models.CharField(max_length=30)),
                ('body', models.TextField()),
                ('state', models.CharField(choices=[('waiting', 'Waiting'), ('delivered', 'Delivered'), ('failed', 'Failed')], default='waiting', max_length=9)),
                ('tries', models.PositiveSmallIntegerField(default=0)),
                ('due', models.DateTimeField(default=django.utils.timezone.now)),
                ('code', models.PositiveSmallIntegerField(help_text='What the last answer said.', null=True)),
                ('answer', models.TextField(blank=True, help_text='The beginning of the last answer.')),
                ('error', models.CharField(blank=True, help_text='Why the last try failed.', max_length=300)),
                ('created', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('finished', models.DateTimeField(null=True)),
                ('webhook', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='deliveries', to='annotator.webhook')),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('state', 'waiting')), fields=['webhook', 'due'], name='deliveries_due'), models.Index(fields=['webhook', '-id'], name='delivery_log'), models.Index(condition=models.Q(('finished__isnull', False)), fields=['finished'], name='ended_deliveries')],
            },
        ),
    ]
