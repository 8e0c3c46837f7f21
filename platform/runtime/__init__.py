"""Ray and its environment, cluster, actor pool, configuration, progress, tracking, tables: used by every room."""
