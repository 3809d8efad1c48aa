"""What can be trained: one folder a route, each with settings, task, train, report and explain."""

ROUTES = ("background", "lesion", "location", "danger")  # in the order of training
