"""The one exception that users are meant to read."""


class UserError(ValueError):
  """Bad input or a bad request: the message says what, where and how to mend.

  Launch scripts print the message without a traceback and exit with status 2.
  """
