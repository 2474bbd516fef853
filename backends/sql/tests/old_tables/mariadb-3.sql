-- Tables of schema version 3 on MariaDB with events, as relevo of that version has created and filled them.
CREATE TABLE `relevo_dead` (
  `ref` bigint(20) NOT NULL AUTO_INCREMENT,
  `queue` varchar(255) NOT NULL,
  `target` varchar(255) DEFAULT NULL,
  `event_id` varchar(255) DEFAULT NULL,
  `source` varchar(255) DEFAULT NULL,
  `name` varchar(255) DEFAULT NULL,
  `urgency` smallint(6) NOT NULL DEFAULT 1,
  `ordering_key` varchar(255) DEFAULT NULL,
  `expires` double DEFAULT NULL,
  `attempt` int(11) NOT NULL DEFAULT 1,
  `lost_leases` int(11) NOT NULL DEFAULT 0,
  `enqueued_at` bigint(20) DEFAULT NULL,
  `headers` longtext DEFAULT NULL,
  `progress` longblob DEFAULT NULL,
  `body` longblob DEFAULT NULL,
  `reason` longtext DEFAULT NULL,
  `error` longtext DEFAULT NULL,
  `died_at` bigint(20) DEFAULT NULL,
  PRIMARY KEY (`ref`),
  KEY `relevo_dead_identity` (`event_id`,`source`),
  KEY `relevo_dead_queue` (`queue`,`ref`)
) ENGINE=InnoDB AUTO_INCREMENT=2 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
CREATE TABLE `relevo_event` (
  `seq` bigint(20) NOT NULL AUTO_INCREMENT,
  `state` smallint(6) NOT NULL DEFAULT 0,
  `ready_at` bigint(20) NOT NULL DEFAULT 0,
  `lease_until` bigint(20) DEFAULT NULL,
  `token` bigint(20) DEFAULT NULL,
  `begun` longtext DEFAULT NULL,
  `deaths` longtext DEFAULT NULL,
  `queue` varchar(255) NOT NULL,
  `target` varchar(255) DEFAULT NULL,
  `event_id` varchar(255) DEFAULT NULL,
  `source` varchar(255) DEFAULT NULL,
  `name` varchar(255) DEFAULT NULL,
  `urgency` smallint(6) NOT NULL DEFAULT 1,
  `ordering_key` varchar(255) DEFAULT NULL,
  `expires` double DEFAULT NULL,
  `attempt` int(11) NOT NULL DEFAULT 1,
  `lost_leases` int(11) NOT NULL DEFAULT 0,
  `enqueued_at` bigint(20) DEFAULT NULL,
  `headers` longtext DEFAULT NULL,
  `progress` longblob DEFAULT NULL,
  `body` longblob DEFAULT NULL,
  `turn` smallint(6) GENERATED ALWAYS AS (case `state` when 0 then `urgency` else 0 end) STORED,
  `at` bigint(20) GENERATED ALWAYS AS (case `state` when 1 then `lease_until` else `ready_at` end) STORED,
  `stray` varchar(255) GENERATED ALWAYS AS (case when case when `state` in (0,2) then 0 when `state` = 1 and `lease_until` is not null then 0 when `state` = 3 and `ordering_key` is not null and `target` is not null then 0 else 1 end = 1 then `queue` end) STORED,
  `identity` binary(32) GENERATED ALWAYS AS (unhex(sha2(concat(unhex(sha2(`source`,256)),unhex(sha2(`target`,256)),unhex(sha2(`queue`,256))),256))) STORED,
  PRIMARY KEY (`seq`),
  UNIQUE KEY `relevo_event_identity` (`event_id`,`identity`),
  KEY `relevo_event_state` (`state`,`queue`,`turn`,`at`,`seq`,`enqueued_at`),
  KEY `relevo_event_stray` (`stray`),
  KEY `relevo_event_turn` (`queue`,`target`,`ordering_key`,`state`,`seq`),
  CONSTRAINT `relevo_event_attempt_is_count` CHECK (`attempt` is not null and `attempt` >= 1),
  CONSTRAINT `relevo_event_state_is_known` CHECK (`state` in (0,1,2,3)),
  CONSTRAINT `relevo_event_lost_leases_is_count` CHECK (`lost_leases` is not null and `lost_leases` >= 0),
  CONSTRAINT `relevo_event_lease_is_whole` CHECK (case `state` when 1 then `lease_until` is not null and `token` is not null else `lease_until` is null and `token` is null end),
  CONSTRAINT `relevo_event_waiting_has_line` CHECK (`state` <> 3 or `ordering_key` is not null and `target` is not null)
) ENGINE=InnoDB AUTO_INCREMENT=14 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
CREATE TABLE `relevo_line` (
  `slot` smallint(6) NOT NULL,
  PRIMARY KEY (`slot`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
CREATE TABLE `relevo_lock` (
  `name` varchar(255) NOT NULL,
  `holder` varchar(255) NOT NULL,
  `receipt` varchar(64) NOT NULL,
  `until` bigint(20) NOT NULL,
  PRIMARY KEY (`name`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
CREATE TABLE `relevo_meta` (
  `key` varchar(64) NOT NULL,
  `value` varchar(255) NOT NULL,
  PRIMARY KEY (`key`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
CREATE TABLE `relevo_worker` (
  `worker` varchar(64) NOT NULL,
  `beats` bigint(20) NOT NULL,
  `seen_at` bigint(20) NOT NULL,
  PRIMARY KEY (`worker`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
INSERT INTO relevo_dead (`ref`, `queue`, `target`, `event_id`, `source`, `name`, `urgency`, `ordering_key`, `expires`, `attempt`, `lost_leases`, `enqueued_at`, `headers`, `progress`, `body`, `reason`, `error`, `died_at`) VALUES (1, 'default', 'default', 'event-2', 'shop', 'image.created', 1, NULL, NULL, 1, 0, 1700000000000000, NULL, '{"v":1,"listeners":{"steady":["done",1,0.0,"",""],"flaky":["dead",1,0.0,"gave-up","GiveUp: no such image"]},"raised":{"flaky":["GiveUp","Traceback (most recent call last):\\n  File \\"/srv/shop/lib/relevo/_worker/caller.py\\", line 244, in _run\\n    result = listener.function(event) if call is None else listener.function(event, call)\\n             ^^^^^^^^^^^^^^^^^^^^^^^^\\n  File \\"/srv/shop/listeners.py\\", line 19, in flaky\\n    if event[\\"n\\"] == 6: raise relevo.GiveUp(\\"no such image\\")\\n                        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\\nrelevo.errors.GiveUp: no such image"]}}', '{"id":"event-2","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:20Z","datacontenttype":"application/json","data":{"n":6}}', 'gave-up', 'flaky: gave-up after 1 run: GiveUp: no such image\nTraceback (most recent call last):\n  File "/srv/shop/lib/relevo/_worker/caller.py", line 244, in _run\n    result = listener.function(event) if call is None else listener.function(event, call)\n             ^^^^^^^^^^^^^^^^^^^^^^^^\n  File "/srv/shop/listeners.py", line 19, in flaky\n    if event["n"] == 6: raise relevo.GiveUp("no such image")\n                        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\nrelevo.errors.GiveUp: no such image', 1700000000000000);
INSERT INTO relevo_event (`seq`, `state`, `ready_at`, `lease_until`, `token`, `begun`, `deaths`, `queue`, `target`, `event_id`, `source`, `name`, `urgency`, `ordering_key`, `expires`, `attempt`, `lost_leases`, `enqueued_at`, `headers`, `progress`, `body`) VALUES (1, 2, 1700000630000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-1', 'shop', 'image.created', 1, NULL, NULL, 2, 0, 1700000000000000, NULL, '{"v":1,"listeners":{"steady":["done",1,0.0,"",""],"flaky":["due",1,1700000630.0,"","OSError: the disk is away"]}}', '{"id":"event-1","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:20Z","datacontenttype":"application/json","data":{"n":5}}');
INSERT INTO relevo_event (`seq`, `state`, `ready_at`, `lease_until`, `token`, `begun`, `deaths`, `queue`, `target`, `event_id`, `source`, `name`, `urgency`, `ordering_key`, `expires`, `attempt`, `lost_leases`, `enqueued_at`, `headers`, `progress`, `body`) VALUES (3, 1, 1700000001000000, 1700000061000000, 1384330805773353723, '["host/1",["host/0"],"steady",false]', '["host/0"]', 'default', 'default', 'event-3', 'shop', 'image.created', 1, NULL, NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-3","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":10}}');
INSERT INTO relevo_event (`seq`, `state`, `ready_at`, `lease_until`, `token`, `begun`, `deaths`, `queue`, `target`, `event_id`, `source`, `name`, `urgency`, `ordering_key`, `expires`, `attempt`, `lost_leases`, `enqueued_at`, `headers`, `progress`, `body`) VALUES (4, 0, 1700000001000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-4', 'shop', 'image.created', 1, NULL, NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-4","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":1}}');
INSERT INTO relevo_event (`seq`, `state`, `ready_at`, `lease_until`, `token`, `begun`, `deaths`, `queue`, `target`, `event_id`, `source`, `name`, `urgency`, `ordering_key`, `expires`, `attempt`, `lost_leases`, `enqueued_at`, `headers`, `progress`, `body`) VALUES (5, 0, 1700000001000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-5', 'shop', 'image.created', 0, NULL, NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-5","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":2}}');
INSERT INTO relevo_event (`seq`, `state`, `ready_at`, `lease_until`, `token`, `begun`, `deaths`, `queue`, `target`, `event_id`, `source`, `name`, `urgency`, `ordering_key`, `expires`, `attempt`, `lost_leases`, `enqueued_at`, `headers`, `progress`, `body`) VALUES (6, 0, 1700000001000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-6', 'shop', 'image.created', 1, NULL, NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-6","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":3}}');
INSERT INTO relevo_event (`seq`, `state`, `ready_at`, `lease_until`, `token`, `begun`, `deaths`, `queue`, `target`, `event_id`, `source`, `name`, `urgency`, `ordering_key`, `expires`, `attempt`, `lost_leases`, `enqueued_at`, `headers`, `progress`, `body`) VALUES (7, 2, 1700003601000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-7', 'shop', 'image.created', 1, NULL, NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-7","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":4}}');
INSERT INTO relevo_event (`seq`, `state`, `ready_at`, `lease_until`, `token`, `begun`, `deaths`, `queue`, `target`, `event_id`, `source`, `name`, `urgency`, `ordering_key`, `expires`, `attempt`, `lost_leases`, `enqueued_at`, `headers`, `progress`, `body`) VALUES (8, 2, 1700000001000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-8', 'shop', 'image.created', 1, 'k', NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-8","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":7}}');
INSERT INTO relevo_event (`seq`, `state`, `ready_at`, `lease_until`, `token`, `begun`, `deaths`, `queue`, `target`, `event_id`, `source`, `name`, `urgency`, `ordering_key`, `expires`, `attempt`, `lost_leases`, `enqueued_at`, `headers`, `progress`, `body`) VALUES (9, 2, 1700000001000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-9', 'shop', 'image.created', 1, 'k', NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-9","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":8}}');
INSERT INTO relevo_event (`seq`, `state`, `ready_at`, `lease_until`, `token`, `begun`, `deaths`, `queue`, `target`, `event_id`, `source`, `name`, `urgency`, `ordering_key`, `expires`, `attempt`, `lost_leases`, `enqueued_at`, `headers`, `progress`, `body`) VALUES (10, 2, 1700000001000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-10', 'shop', 'image.created', 1, 'k', NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-10","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":9}}');
INSERT INTO relevo_event (`seq`, `state`, `ready_at`, `lease_until`, `token`, `begun`, `deaths`, `queue`, `target`, `event_id`, `source`, `name`, `urgency`, `ordering_key`, `expires`, `attempt`, `lost_leases`, `enqueued_at`, `headers`, `progress`, `body`) VALUES (11, 0, 1700000001000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-11', 'shop', 'image.created', 1, NULL, 3276800001.0, 1, 0, 1700000001000000, NULL, '', '{"id":"event-11","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":11}}');
INSERT INTO relevo_event (`seq`, `state`, `ready_at`, `lease_until`, `token`, `begun`, `deaths`, `queue`, `target`, `event_id`, `source`, `name`, `urgency`, `ordering_key`, `expires`, `attempt`, `lost_leases`, `enqueued_at`, `headers`, `progress`, `body`) VALUES (12, 2, 1700007201000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-12', 'shop', 'image.created', 1, 'later', NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-12","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":12}}');
INSERT INTO relevo_event (`seq`, `state`, `ready_at`, `lease_until`, `token`, `begun`, `deaths`, `queue`, `target`, `event_id`, `source`, `name`, `urgency`, `ordering_key`, `expires`, `attempt`, `lost_leases`, `enqueued_at`, `headers`, `progress`, `body`) VALUES (13, 2, 1700000001000000, NULL, NULL, NULL, NULL, 'default', 'default', 'event-13', 'shop', 'image.created', 1, 'later', NULL, 1, 0, 1700000001000000, NULL, '', '{"id":"event-13","source":"shop","type":"image.created","specversion":"1.0","time":"2023-11-14T22:13:21Z","datacontenttype":"application/json","data":{"n":13}}');
INSERT INTO relevo_lock (`name`, `holder`, `receipt`, `until`) VALUES ('drain', 'host/1', '5069ab17e9604929a01462947c07193b', 1700000031000000);
INSERT INTO relevo_meta (`key`, `value`) VALUES ('database', 'c65d7d3d22f948fc8386c8a74cf5a620');
INSERT INTO relevo_meta (`key`, `value`) VALUES ('schema', '3');
