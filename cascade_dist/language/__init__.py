"""How people describe work: tasks, lazy results, inputs. Nothing in here runs anything."""
