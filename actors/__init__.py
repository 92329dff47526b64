"""Everything that is an actor, and what actors stand on; see the packages below."""
