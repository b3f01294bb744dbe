-- Numbers of a generation's rows by what lists count them by (a status), of all partitions together: the sum over
-- them. Null if unknown: the generation is of a release that did not count.
alter table checkpoints add column counts jsonb;
alter table checkpoints alter column counts set default '{}';
