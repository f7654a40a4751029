"""Ways of finding resources, one file each: ``probe() -> Found``. What a probe lacks it says in ``Found.problem``."""
