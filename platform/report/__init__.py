"""Pages and figures of weighted ensembles, with a verdict; without Ray."""
