"""The three source studies done right, as commands; their results lie beside their code."""
