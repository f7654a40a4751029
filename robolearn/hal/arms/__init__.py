"""Published numbers of arms, one YAML file each; read by ``robolearn.hal.chain``."""
