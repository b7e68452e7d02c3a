def all_charts(r): return {}
