"""How backbones are made: stages, tasks, recipes, distillation."""
