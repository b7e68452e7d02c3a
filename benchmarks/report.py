def markdown(r): return "todo"
