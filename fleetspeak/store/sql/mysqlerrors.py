"""What the errors of MySQL, MariaDB and what speaks like them mean for a transaction.  Numbers only, no I/O."""

from __future__ import annotations

LOST = frozenset(
    [
        0,  # PyMySQL: the connection is closed already
        1040,  # too many connections
        1043,  # bad handshake: it went away while connecting
        1047,  # a node of a cluster without quorum, or not yet synced
        1053,  # the server shuts down
        1077,
        1079,
        1080,  # forced close
        1152,
        1158,
        1159,
        1160,
        1161,  # communication failed
        1184,
        1203,  # too many connections of this user
        1290,
        1836,  # read-only: the server that took writes has changed
        1792,  # in a read-only transaction, likewise
        1927,  # MariaDB: connection was killed
        2002,
        2003,
        2005,
        2006,
        2013,
        2014,
        2027,
        2055,  # client: no connection, or lost
        3032,  # the server is in offline mode
        3159,
        4031,  # disconnected because of inactivity
    ]
)
"""The connection is of no use any more, or its server is not; another one may be."""

UNDONE = frozenset(
    [
        1020,  # MariaDB 11.6: the row has changed since it was read
        1180,  # an error during COMMIT
        1205,  # lock wait timeout
        1213,  # deadlock; in Galera also: another node was quicker
        1317,  # interrupted: in Galera a local transaction made room for another node's
        1412,  # table definition has changed
        1614,  # transaction branch was rolled back: deadlock
        1637,  # too many concurrent transactions
        3101,  # group replication: certification failed
        8002,
        8005,
        8022,
        8028,
        9001,
        9002,
        9003,
        9004,
        9005,
        9007,  # TiDB: write conflicts, schema changes, regions on the move
    ]
)
"""The transaction is lost; the same may succeed when tried anew."""

ROLLED_BACK = frozenset([1205, 1213, 1614, 3101, 8002, 9007])
"""Of these, those after which a COMMIT that gave them has certainly not happened."""

NO_PARENT = frozenset([1216, 1452])
DUPLICATE = frozenset([1022, 1062, 1586])

UNFIT = frozenset(
    [
        1048,  # NULL where there must be a value
        1153,  # packet bigger than max_allowed_packet
        1264,  # out of range
        1265,  # data truncated
        1292,  # incorrect value
        1366,  # incorrect string: not of the column's character set
        1406,  # too long
        1690,  # out of range
    ]
)
"""The row cannot be stored as it is."""

NO_RIGHT = frozenset([1044, 1045, 1095, 1142, 1143, 1227, 1370])

THERE_ALREADY = frozenset([1050, 1060, 1061, 1091, 1826, 121, 1022])
"""Of a change of the schema that another server makes at the same time."""

OUT_OF_TIME = frozenset([1969, 3024])
"""A SELECT took longer than it may: MariaDB, MySQL."""

FULL = frozenset([1021, 1114])
