"""The coordinator: knows the nodes, keeps the tasks, decides which node runs what."""
