"""Mixed precision: `autocast` and `GradScaler`, as in torch.amp."""
