from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('rlhf', '0008_endpoints'),
    ]

    operations = [
        migrations.AlterField(
            model_name='run',
            name='kind',
            field=models.CharField(choices=[('import_model', 'Import model'), ('generate', 'Generate completions'), ('reward_model', 'Reward model'), ('ppo', 'PPO'), ('evaluate', 'Evaluate'), ('probe', 'Measure speed'), ('order_queue', 'Order questions'), ('converse', 'Live conversations'), ('merge', 'Merge weights')], max_length=12),
        ),
    ]
