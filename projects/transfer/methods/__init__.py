"""Methods of finetuning, a file each: functions of models, arrays and losses, no configurations."""
