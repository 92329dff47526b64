"""Ways to run a client's script: forked from a template, exec'd, or inside this process."""
