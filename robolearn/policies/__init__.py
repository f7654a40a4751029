"""Policy families, one file each; shared nets in policies/parts."""
