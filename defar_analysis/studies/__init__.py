"""What stands behind the catalog's entries: each build() measures, or takes from results/, what a notebook draws."""
