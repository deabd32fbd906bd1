"""One file for each form in which a dataset can come. Each reads without trusting what it reads."""
