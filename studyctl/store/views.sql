-- The queries that people need most. A figure that does not exist (dense not measured yet, not finite) is NULL;
-- no row is left out of a mean silently.

CREATE VIEW perplexity_vs_dense AS
WITH ends AS (
    SELECT trial_id, subject AS language,
        any_value(low) FILTER (measure = 'ppl_ratio') AS ppl_ratio_low,
        any_value(high) FILTER (measure = 'ppl_ratio') AS ppl_ratio_high,
        any_value(low) FILTER (measure = 'bits_per_byte_change') AS bits_per_byte_change_low,
        any_value(high) FILTER (measure = 'bits_per_byte_change') AS bits_per_byte_change_high,
        any_value(low) FILTER (measure = 'bits_per_character_change') AS bits_per_character_change_low,
        any_value(high) FILTER (measure = 'bits_per_character_change') AS bits_per_character_change_high,
        any_value(low) FILTER (measure = 'kl_nats') AS kl_nats_low,
        any_value(high) FILTER (measure = 'kl_nats') AS kl_nats_high,
        any_value(low) FILTER (measure = 'kl_nats_per_byte') AS kl_nats_per_byte_low,
        any_value(high) FILTER (measure = 'kl_nats_per_byte') AS kl_nats_per_byte_high
    FROM intervals GROUP BY ALL
)
SELECT
    p.trial_id, p.model, p.method, p.variant, p.language, p.perplexity,
    d.perplexity AS dense_perplexity,
    CASE WHEN p.perplexity > 0 AND d.perplexity > 0 AND isfinite(p.perplexity) AND isfinite(d.perplexity)
         THEN p.perplexity / d.perplexity END AS ppl_ratio,
    e.ppl_ratio_low, e.ppl_ratio_high,
    p.bits_per_byte,
    d.bits_per_byte AS dense_bits_per_byte,
    p.bits_per_byte - d.bits_per_byte AS bits_per_byte_change,
    e.bits_per_byte_change_low, e.bits_per_byte_change_high,
    p.bits_per_character,
    d.bits_per_character AS dense_bits_per_character,
    p.bits_per_character - d.bits_per_character AS bits_per_character_change,
    e.bits_per_character_change_low, e.bits_per_character_change_high,
    d.bits_per_byte < d.bzip2_bits_per_byte AS dense_knows,
    f.kl_nats, e.kl_nats_low, e.kl_nats_high,
    f.kl_nats * f.tokens / p.bytes AS kl_nats_per_byte, e.kl_nats_per_byte_low, e.kl_nats_per_byte_high,
    f.top1
FROM perplexity p
LEFT JOIN perplexity d ON d.model = p.model AND d.language = p.language AND d.variant = 'dense'
LEFT JOIN fidelity f ON f.trial_id = p.trial_id AND f.language = p.language
LEFT JOIN ends e ON e.trial_id = p.trial_id AND e.language = p.language
ORDER BY p.rowid;  -- as planned
COMMENT ON VIEW perplexity_vs_dense IS 'one row per trial and language: perplexity compared with the dense model''s. Compare languages per byte or character: tokenizers distort figures per token';
COMMENT ON COLUMN perplexity_vs_dense.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN perplexity_vs_dense.model IS 'id of the model as in the spec';
COMMENT ON COLUMN perplexity_vs_dense.method IS 'compression method';
COMMENT ON COLUMN perplexity_vs_dense.variant IS 'compression setting';
COMMENT ON COLUMN perplexity_vs_dense.language IS 'language of the text';
COMMENT ON COLUMN perplexity_vs_dense.perplexity IS 'perplexity per token of this trial; NULL if not finite';
COMMENT ON COLUMN perplexity_vs_dense.dense_perplexity IS 'perplexity of the dense model; NULL while it is not measured';
COMMENT ON COLUMN perplexity_vs_dense.ppl_ratio IS 'perplexity / dense_perplexity: for variants in one language, not for languages';
COMMENT ON COLUMN perplexity_vs_dense.ppl_ratio_low IS 'lower end of its 95 % interval over paired windows; NULL for fewer than 4 windows';
COMMENT ON COLUMN perplexity_vs_dense.ppl_ratio_high IS 'upper end of that interval';
COMMENT ON COLUMN perplexity_vs_dense.bits_per_byte IS 'bits per byte of this trial';
COMMENT ON COLUMN perplexity_vs_dense.dense_bits_per_byte IS 'bits per byte of the dense model';
COMMENT ON COLUMN perplexity_vs_dense.bits_per_byte_change IS 'bits_per_byte - dense_bits_per_byte';
COMMENT ON COLUMN perplexity_vs_dense.bits_per_byte_change_low IS 'lower end of its 95 % interval over paired windows';
COMMENT ON COLUMN perplexity_vs_dense.bits_per_byte_change_high IS 'upper end of that interval';
COMMENT ON COLUMN perplexity_vs_dense.bits_per_character IS 'bits per character of this trial; NULL: measured before version 0.2';
COMMENT ON COLUMN perplexity_vs_dense.dense_bits_per_character IS 'bits per character of the dense model';
COMMENT ON COLUMN perplexity_vs_dense.bits_per_character_change IS 'bits_per_character - dense_bits_per_character';
COMMENT ON COLUMN perplexity_vs_dense.bits_per_character_change_low IS 'lower end of its 95 % interval over paired windows';
COMMENT ON COLUMN perplexity_vs_dense.bits_per_character_change_high IS 'upper end of that interval';
COMMENT ON COLUMN perplexity_vs_dense.dense_knows IS 'whether the dense model needs fewer bits per byte than bzip2, which knows no language; false: it does not know this language, and a change says little; NULL: measured before version 0.3';
COMMENT ON COLUMN perplexity_vs_dense.kl_nats IS 'KL(dense || compressed), mean over tokens';
COMMENT ON COLUMN perplexity_vs_dense.kl_nats_low IS 'lower end of its 95 % interval over windows';
COMMENT ON COLUMN perplexity_vs_dense.kl_nats_high IS 'upper end of that interval';
COMMENT ON COLUMN perplexity_vs_dense.kl_nats_per_byte IS 'KL(dense || compressed), summed over tokens, per byte of the text';
COMMENT ON COLUMN perplexity_vs_dense.kl_nats_per_byte_low IS 'lower end of its 95 % interval over windows';
COMMENT ON COLUMN perplexity_vs_dense.kl_nats_per_byte_high IS 'upper end of that interval';
COMMENT ON COLUMN perplexity_vs_dense.top1 IS 'top-1 agreement: fraction of positions where both models predict the same most likely token';

CREATE VIEW tasks_vs_dense AS
SELECT
    t.trial_id, t.model, t.method, t.variant, t.task, t.metric, t.main, t.averaged, t.value, t.stderr,
    d.value AS dense_value,
    t.value - d.value AS change,
    i.low AS change_low, i.high AS change_high,
    f.items, f.right_to_wrong, f.wrong_to_right, f.mcnemar_p,
    c.chance, c.above AS above_chance, t.language
FROM tasks t
LEFT JOIN tasks d ON d.model = t.model AND d.task = t.task AND d.metric = t.metric AND d.variant = 'dense'
LEFT JOIN task_flips f ON f.trial_id = t.trial_id AND f.task = t.task AND f.metric = t.metric
LEFT JOIN intervals i ON i.trial_id = t.trial_id AND i.measure = t.metric AND i.subject = t.task
LEFT JOIN task_chance c ON c.trial_id = t.trial_id AND c.task = t.task AND c.metric = t.metric
ORDER BY t.rowid;  -- as planned
COMMENT ON VIEW tasks_vs_dense IS 'one row per trial, task and metric: the value compared with the dense model''s, items paired';
COMMENT ON COLUMN tasks_vs_dense.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN tasks_vs_dense.model IS 'id of the model as in the spec';
COMMENT ON COLUMN tasks_vs_dense.method IS 'compression method';
COMMENT ON COLUMN tasks_vs_dense.variant IS 'compression setting';
COMMENT ON COLUMN tasks_vs_dense.task IS 'name of the task in lm-eval';
COMMENT ON COLUMN tasks_vs_dense.metric IS 'lm-eval''s name without its filter, such as acc';
COMMENT ON COLUMN tasks_vs_dense.main IS 'whether it is the task''s main metric';
COMMENT ON COLUMN tasks_vs_dense.averaged IS 'whether it counts in means over tasks';
COMMENT ON COLUMN tasks_vs_dense.value IS 'value of this trial';
COMMENT ON COLUMN tasks_vs_dense.stderr IS 'standard error of the value';
COMMENT ON COLUMN tasks_vs_dense.dense_value IS 'value of the dense model; NULL while it is not measured';
COMMENT ON COLUMN tasks_vs_dense.change IS 'value - dense_value';
COMMENT ON COLUMN tasks_vs_dense.change_low IS 'lower end of its 95 % interval over paired items; NULL for fewer than 4 items or passages';
COMMENT ON COLUMN tasks_vs_dense.change_high IS 'upper end of that interval';
COMMENT ON COLUMN tasks_vs_dense.items IS 'items that both models were scored on';
COMMENT ON COLUMN tasks_vs_dense.right_to_wrong IS 'items that the dense model has right and this one wrong';
COMMENT ON COLUMN tasks_vs_dense.wrong_to_right IS 'items that the dense model has wrong and this one right';
COMMENT ON COLUMN tasks_vs_dense.mcnemar_p IS 'exact two-sided McNemar test of the two counts';
COMMENT ON COLUMN tasks_vs_dense.chance IS 'score of guessing; NULL for metrics with other values than right and wrong';
COMMENT ON COLUMN tasks_vs_dense.above_chance IS 'whether this trial and the dense model together answer better than chance (p < 0.05, table task_chance); where not, the change says nothing';
COMMENT ON COLUMN tasks_vs_dense.language IS 'language of a task of one''s own, as the spec says now; NULL where it does not';

CREATE VIEW leaderboard AS
WITH ppl AS (
    SELECT
        trial_id,
        count(dense_perplexity) AS languages,
        CASE WHEN count(ppl_ratio) = count(dense_perplexity) THEN exp(avg(ln(ppl_ratio))) END AS ppl_ratio,
        CASE WHEN count(bits_per_byte_change) = count(dense_perplexity) THEN avg(bits_per_byte_change) END AS bits_per_byte_change,
        CASE WHEN count(bits_per_character_change) = count(dense_perplexity)
             THEN avg(bits_per_character_change) END AS bits_per_character_change,
        arg_max(language, bits_per_byte_change) AS worst_language,
        max(bits_per_byte_change) AS worst_bits_per_byte_change,
        arg_max(ppl_ratio, bits_per_byte_change) AS worst_ppl_ratio,
        CASE WHEN count(dense_knows) = count(*) THEN count(*) FILTER (dense_knows) END AS languages_known
    FROM perplexity_vs_dense GROUP BY trial_id
), kl AS (
    SELECT trial_id, count(*) AS languages, CASE WHEN count(kl_nats) = count(*) THEN avg(kl_nats) END AS kl_nats,
        CASE WHEN count(kl_nats_per_byte) = count(*) THEN avg(kl_nats_per_byte) END AS kl_nats_per_byte,
        CASE WHEN count(top1) = count(*) THEN avg(top1) END AS top1
    FROM perplexity_vs_dense SEMI JOIN fidelity USING (trial_id, language) GROUP BY trial_id
), acc AS (
    SELECT trial_id, count(*) AS tasks, CASE WHEN count(value) = count(*) THEN avg(value) END AS acc, avg(change) AS acc_change,
        count(change) AS compared,
        CASE WHEN count(above_chance) > 0 THEN count(*) FILTER (above_chance) END AS tasks_above_chance,
        avg(value) FILTER (above_chance) AS acc_above_chance,
        avg(change) FILTER (above_chance) AS acc_change_above_chance,
        sum(right_to_wrong)::BIGINT AS right_to_wrong, sum(wrong_to_right)::BIGINT AS wrong_to_right
    FROM tasks_vs_dense WHERE averaged GROUP BY trial_id
), ends AS (
    SELECT i.trial_id, i.measure, i.low, i.high
    FROM intervals i
    LEFT JOIN ppl ON ppl.trial_id = i.trial_id LEFT JOIN kl ON kl.trial_id = i.trial_id LEFT JOIN acc ON acc.trial_id = i.trial_id
    -- An interval of a mean is that of all of its languages or tasks, or none.
    WHERE i.subject IS NULL AND i.pairs = CASE i.measure
        WHEN 'main' THEN acc.compared WHEN 'main_above_chance' THEN acc.tasks_above_chance
        WHEN 'kl_nats' THEN kl.languages WHEN 'kl_nats_per_byte' THEN kl.languages ELSE ppl.languages END
)
SELECT
    t.trial_id, t.model, t.method, t.variant, t.seed, t.state, t.bits_per_weight, t.size_mib, t.sparsity,
    ppl.ppl_ratio, ratio.low AS ppl_ratio_low, ratio.high AS ppl_ratio_high,
    ppl.bits_per_byte_change, bits.low AS bits_per_byte_change_low, bits.high AS bits_per_byte_change_high,
    ppl.bits_per_character_change, characters.low AS bits_per_character_change_low,
    characters.high AS bits_per_character_change_high,
    ppl.worst_language, ppl.worst_bits_per_byte_change, ppl.worst_ppl_ratio, ppl.languages, ppl.languages_known,
    kl.kl_nats, distance.low AS kl_nats_low, distance.high AS kl_nats_high, kl.kl_nats_per_byte,
    distance_per_byte.low AS kl_nats_per_byte_low, distance_per_byte.high AS kl_nats_per_byte_high, kl.top1,
    acc.acc, acc.acc_change, change.low AS acc_change_low, change.high AS acc_change_high, acc.tasks,
    acc.acc_above_chance, acc.acc_change_above_chance,
    above.low AS acc_change_above_chance_low, above.high AS acc_change_above_chance_high, acc.tasks_above_chance,
    acc.right_to_wrong + acc.wrong_to_right AS flips, acc.right_to_wrong, acc.wrong_to_right,
    t.compress_seconds, t.total_seconds, t.peak_memory_bytes, t.peak_device_bytes, t.file_mib, t.embedding_share, t.why_no_file
FROM trials t
LEFT JOIN ppl ON ppl.trial_id = t.trial_id
LEFT JOIN kl ON kl.trial_id = t.trial_id
LEFT JOIN acc ON acc.trial_id = t.trial_id
LEFT JOIN ends ratio ON ratio.trial_id = t.trial_id AND ratio.measure = 'ppl_ratio' AND ppl.ppl_ratio IS NOT NULL
LEFT JOIN ends bits ON bits.trial_id = t.trial_id AND bits.measure = 'bits_per_byte_change' AND ppl.bits_per_byte_change IS NOT NULL
LEFT JOIN ends characters ON characters.trial_id = t.trial_id AND characters.measure = 'bits_per_character_change'
    AND ppl.bits_per_character_change IS NOT NULL
LEFT JOIN ends distance ON distance.trial_id = t.trial_id AND distance.measure = 'kl_nats'
LEFT JOIN ends distance_per_byte ON distance_per_byte.trial_id = t.trial_id AND distance_per_byte.measure = 'kl_nats_per_byte'
    AND kl.kl_nats_per_byte IS NOT NULL
LEFT JOIN ends change ON change.trial_id = t.trial_id AND change.measure = 'main'
LEFT JOIN ends above ON above.trial_id = t.trial_id AND above.measure = 'main_above_chance'
ORDER BY t.position;
COMMENT ON VIEW leaderboard IS 'one row per trial, also of those without results: size, quality against the dense model, time';
COMMENT ON COLUMN leaderboard.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN leaderboard.model IS 'id of the model as in the spec';
COMMENT ON COLUMN leaderboard.method IS 'compression method';
COMMENT ON COLUMN leaderboard.variant IS 'compression setting';
COMMENT ON COLUMN leaderboard.seed IS 'seed of the random choices; NULL when nothing is drawn';
COMMENT ON COLUMN leaderboard.state IS 'pending, running, done, failed or stopped';
COMMENT ON COLUMN leaderboard.bits_per_weight IS 'mean bits per weight of the block linears, with scales, zero points and masks; no runtime reads masks or gains from zeros: on disk a pruned model has 16 bits';
COMMENT ON COLUMN leaderboard.size_mib IS 'MiB of the weights of the whole model as stored: quantized linears as an export packs them, all else in the dtype of the model''s files';
COMMENT ON COLUMN leaderboard.sparsity IS 'fraction of the weights that is zero, 0 to 1';
COMMENT ON COLUMN leaderboard.ppl_ratio IS 'perplexity per token / that of the dense model, geometric mean over the languages, as papers print it; NULL if one of them is not finite';
COMMENT ON COLUMN leaderboard.ppl_ratio_low IS 'lower end of its 95 % interval over paired windows; NULL if a language has none';
COMMENT ON COLUMN leaderboard.ppl_ratio_high IS 'upper end of that interval';
COMMENT ON COLUMN leaderboard.bits_per_byte_change IS 'bits per byte - the dense model''s, mean over the languages; NULL if one of them is not finite';
COMMENT ON COLUMN leaderboard.bits_per_byte_change_low IS 'lower end of its 95 % interval over paired windows';
COMMENT ON COLUMN leaderboard.bits_per_byte_change_high IS 'upper end of that interval';
COMMENT ON COLUMN leaderboard.bits_per_character_change IS 'bits per character - the dense model''s, mean over the languages';
COMMENT ON COLUMN leaderboard.bits_per_character_change_low IS 'lower end of its 95 % interval over paired windows';
COMMENT ON COLUMN leaderboard.bits_per_character_change_high IS 'upper end of that interval';
COMMENT ON COLUMN leaderboard.worst_language IS 'language with the highest change in bits per byte';
COMMENT ON COLUMN leaderboard.worst_bits_per_byte_change IS 'that change';
COMMENT ON COLUMN leaderboard.worst_ppl_ratio IS 'perplexity ratio of that language';
COMMENT ON COLUMN leaderboard.languages IS 'languages measured for both this trial and the dense model';
COMMENT ON COLUMN leaderboard.languages_known IS 'languages that the dense model knows (perplexity_vs_dense.dense_knows); NULL: not tested in every language';
COMMENT ON COLUMN leaderboard.kl_nats IS 'mean KL(dense || compressed) per token, mean over the languages';
COMMENT ON COLUMN leaderboard.kl_nats_low IS 'lower end of its 95 % interval over windows';
COMMENT ON COLUMN leaderboard.kl_nats_high IS 'upper end of that interval';
COMMENT ON COLUMN leaderboard.kl_nats_per_byte IS 'KL(dense || compressed) per byte of text, mean over the languages';
COMMENT ON COLUMN leaderboard.kl_nats_per_byte_low IS 'lower end of its 95 % interval over windows';
COMMENT ON COLUMN leaderboard.kl_nats_per_byte_high IS 'upper end of that interval';
COMMENT ON COLUMN leaderboard.top1 IS 'top-1 agreement with the dense model, mean over the languages';
COMMENT ON COLUMN leaderboard.acc IS 'mean over tasks of their main metrics, where these are fractions';
COMMENT ON COLUMN leaderboard.acc_change IS 'change of acc against the dense model, mean over the tasks measured for both';
COMMENT ON COLUMN leaderboard.acc_change_low IS 'lower end of its 95 % interval over paired items; NULL if a task has none';
COMMENT ON COLUMN leaderboard.acc_change_high IS 'upper end of that interval';
COMMENT ON COLUMN leaderboard.tasks IS 'tasks in acc';
COMMENT ON COLUMN leaderboard.acc_above_chance IS 'acc over the tasks above chance alone (tasks_vs_dense.above_chance)';
COMMENT ON COLUMN leaderboard.acc_change_above_chance IS 'acc_change over the tasks above chance alone';
COMMENT ON COLUMN leaderboard.acc_change_above_chance_low IS 'lower end of its 95 % interval over paired items';
COMMENT ON COLUMN leaderboard.acc_change_above_chance_high IS 'upper end of that interval';
COMMENT ON COLUMN leaderboard.tasks_above_chance IS 'how many tasks are above chance; tasks with other values than right and wrong are not tested, and do not count';
COMMENT ON COLUMN leaderboard.flips IS 'items that flipped against the dense model, over all tasks';
COMMENT ON COLUMN leaderboard.right_to_wrong IS 'items that the dense model has right and this one wrong';
COMMENT ON COLUMN leaderboard.wrong_to_right IS 'items that the dense model has wrong and this one right';
COMMENT ON COLUMN leaderboard.compress_seconds IS 'time of the compress step';
COMMENT ON COLUMN leaderboard.total_seconds IS 'time of all steps together, load included';
COMMENT ON COLUMN leaderboard.peak_memory_bytes IS 'highest peak of a step: memory of the process';
COMMENT ON COLUMN leaderboard.peak_device_bytes IS 'highest peak of a step: memory that torch allocated on the GPU; NULL on a CPU';
COMMENT ON COLUMN leaderboard.file_mib IS 'MiB of the GGUF file that `studyctl export --to gguf` writes, to the byte: the model as it is deployed, pruned ones at 16 bits; NULL: there can be none (why_no_file), or it was made before version 0.3';
COMMENT ON COLUMN leaderboard.embedding_share IS 'fraction of that file that the matrices over the vocabulary take';
COMMENT ON COLUMN leaderboard.why_no_file IS 'why GGUF cannot hold it; NULL where it can, and where that is not known';

CREATE VIEW flips AS
SELECT i.trial_id, i.model, i.method, i.variant, i.task, i.item, i.gold, d.predicted AS dense_predicted, i.predicted,
    CASE WHEN i.correct = 1 THEN 'wrong_to_right' ELSE 'right_to_wrong' END AS direction,
    d.loglikelihoods AS dense_loglikelihoods, i.loglikelihoods,
    x.prompt, x.choices,
    coalesce(x.choices[i.gold + 1], x.target) AS right_answer,
    coalesce(x.choices[d.predicted + 1], d.answer) AS dense_answer,
    coalesce(x.choices[i.predicted + 1], i.answer) AS answer
FROM items i JOIN items d ON d.model = i.model AND d.task = i.task AND d.item = i.item AND d.variant = 'dense'
LEFT JOIN steps s ON s.trial_id = i.trial_id AND s.kind = 'task' AND s.subject = i.task
LEFT JOIN item_texts x ON x.texts_key = s.texts_key AND x.item = i.item
WHERE i.variant <> 'dense' AND i.correct <> d.correct;
COMMENT ON VIEW flips IS 'one row per item that flipped against the dense model, by the task''s main metric';
COMMENT ON COLUMN flips.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN flips.model IS 'id of the model as in the spec';
COMMENT ON COLUMN flips.method IS 'compression method';
COMMENT ON COLUMN flips.variant IS 'compression setting';
COMMENT ON COLUMN flips.task IS 'name of the task in lm-eval';
COMMENT ON COLUMN flips.item IS 'lm-eval''s doc_id';
COMMENT ON COLUMN flips.gold IS 'number of the right choice, from 0';
COMMENT ON COLUMN flips.dense_predicted IS 'choice with the highest log-likelihood by the dense model; acc_norm judges by that per character';
COMMENT ON COLUMN flips.predicted IS 'choice with the highest log-likelihood by this trial';
COMMENT ON COLUMN flips.direction IS 'right_to_wrong or wrong_to_right';
COMMENT ON COLUMN flips.dense_loglikelihoods IS 'log-likelihoods of the choices by the dense model, in nats';
COMMENT ON COLUMN flips.loglikelihoods IS 'log-likelihoods of the choices by this trial, in nats';
COMMENT ON COLUMN flips.prompt IS 'context as it was scored, see item_texts; this and all that follow are NULL where no texts are kept';
COMMENT ON COLUMN flips.choices IS 'what continues the prompt, in the order of loglikelihoods';
COMMENT ON COLUMN flips.right_answer IS 'text of the choice gold, or the target of a generated answer';
COMMENT ON COLUMN flips.dense_answer IS 'text of the choice dense_predicted, or what the dense model generated';
COMMENT ON COLUMN flips.answer IS 'text of the choice predicted, or what this trial generated';

CREATE VIEW failures AS
SELECT trial_id, model, method, variant, stage, cause, error, hint, attempts
FROM trials WHERE state = 'failed' ORDER BY position;
COMMENT ON VIEW failures IS 'one row per failed trial: where, why, what to do';
COMMENT ON COLUMN failures.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN failures.model IS 'id of the model as in the spec';
COMMENT ON COLUMN failures.method IS 'compression method';
COMMENT ON COLUMN failures.variant IS 'compression setting';
COMMENT ON COLUMN failures.stage IS 'step that failed';
COMMENT ON COLUMN failures.cause IS 'error, out_of_memory or killed';
COMMENT ON COLUMN failures.error IS 'why, on one line';
COMMENT ON COLUMN failures.hint IS 'what to do';
COMMENT ON COLUMN failures.attempts IS 'attempts so far';

CREATE VIEW progress AS
SELECT model, count(*) AS trials,
    count(*) FILTER (WHERE state = 'done') AS done,
    count(*) FILTER (WHERE state = 'running') AS running,
    count(*) FILTER (WHERE state = 'failed') AS failed,
    count(*) FILTER (WHERE state = 'stopped') AS stopped,
    count(*) FILTER (WHERE state = 'pending') AS pending,
    sum(stages)::BIGINT AS stages,
    sum(stages_done)::BIGINT AS stages_done,
    sum(total_seconds) AS total_seconds
FROM trials GROUP BY model ORDER BY min(position);
COMMENT ON VIEW progress IS 'one row per model: how many trials and steps are done';
COMMENT ON COLUMN progress.model IS 'id of the model as in the spec';
COMMENT ON COLUMN progress.trials IS 'trials that the spec asks for';
COMMENT ON COLUMN progress.done IS 'trials whose every step is stored';
COMMENT ON COLUMN progress.running IS 'trials that a worker is running';
COMMENT ON COLUMN progress.failed IS 'trials whose last attempt failed';
COMMENT ON COLUMN progress.stopped IS 'trials that were stopped or killed';
COMMENT ON COLUMN progress.pending IS 'trials that wait';
COMMENT ON COLUMN progress.stages IS 'steps that the spec asks for, without load';
COMMENT ON COLUMN progress.stages_done IS 'steps whose result is stored';
COMMENT ON COLUMN progress.total_seconds IS 'time of all current steps together';

CREATE VIEW pareto AS
WITH figures AS (
    SELECT trial_id, 'ppl_ratio' AS measure, ppl_ratio AS value, -ppl_ratio AS quality FROM leaderboard
    UNION ALL
    SELECT trial_id, 'bits_per_byte_change', bits_per_byte_change, -bits_per_byte_change FROM leaderboard
    UNION ALL
    SELECT trial_id, 'acc', acc, acc FROM leaderboard
), measured AS (
    -- Rounded, since means of the same numbers in another order tie. All trials of a model are compared by the same size.
    SELECT l.trial_id, l.model, l.method, l.variant, f.measure, l.bits_per_weight, l.size_mib, l.file_mib, f.value,
        round(f.quality, 12) AS quality,
        CASE WHEN bool_and(l.file_mib IS NOT NULL) OVER (PARTITION BY l.model) THEN l.file_mib
             WHEN bool_and(l.size_mib IS NOT NULL) OVER (PARTITION BY l.model) THEN l.size_mib ELSE l.bits_per_weight END AS size
    FROM leaderboard l JOIN figures f ON f.trial_id = l.trial_id
    WHERE f.value IS NOT NULL
), placed AS (
    -- Windows, not pairs of trials: a sweep may have thousands.
    SELECT *, max(quality) OVER up_to AS best,
        max(quality) OVER (PARTITION BY model, measure ORDER BY size RANGE UNBOUNDED PRECEDING EXCLUDE GROUP) AS best_of_smaller
    FROM measured WHERE size IS NOT NULL
    WINDOW up_to AS (PARTITION BY model, measure ORDER BY size RANGE UNBOUNDED PRECEDING)
)
SELECT trial_id, model, method, variant, measure, bits_per_weight, size_mib, value, file_mib
FROM placed
WHERE quality = best AND (best_of_smaller IS NULL OR quality > best_of_smaller)
ORDER BY model, measure, size;
COMMENT ON VIEW pareto IS 'per model and measure, the trials on the Pareto front of size and quality: nothing is both smaller and better. Size is file_mib; size_mib where a measured trial of the model has no file_mib, and bits_per_weight where one has neither';
COMMENT ON COLUMN pareto.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN pareto.model IS 'id of the model as in the spec';
COMMENT ON COLUMN pareto.method IS 'compression method';
COMMENT ON COLUMN pareto.variant IS 'compression setting';
COMMENT ON COLUMN pareto.measure IS 'ppl_ratio, bits_per_byte_change (lower is better) or acc (higher is better)';
COMMENT ON COLUMN pareto.bits_per_weight IS 'mean bits per weight of the block linears, with scales, zero points and masks';
COMMENT ON COLUMN pareto.size_mib IS 'MiB of the weights of the whole model as stored';
COMMENT ON COLUMN pareto.value IS 'value of the measure';
COMMENT ON COLUMN pareto.file_mib IS 'MiB of the GGUF file';

CREATE VIEW ranks AS
WITH compared AS (
    -- A mean over two languages is not comparable with one over seven: a trial counts if it has all languages of its model.
    SELECT *,
        languages = max(languages) OVER of_model AS every_language,
        tasks = max(tasks) OVER of_model AS every_task
    FROM leaderboard WINDOW of_model AS (PARTITION BY model)
), figures AS (
    SELECT trial_id, model, method, variant, 'kl_nats_per_byte' AS metric, kl_nats_per_byte AS value, kl_nats_per_byte AS cost
    FROM compared WHERE every_language
    UNION ALL
    SELECT trial_id, model, method, variant, 'bits_per_byte_change', bits_per_byte_change, bits_per_byte_change
    FROM compared WHERE every_language
    UNION ALL
    SELECT trial_id, model, method, variant, 'worst_bits_per_byte_change', worst_bits_per_byte_change, worst_bits_per_byte_change
    FROM compared WHERE every_language AND bits_per_byte_change IS NOT NULL  -- else the worst language is the one that has none
    UNION ALL
    SELECT trial_id, model, method, variant, 'acc_change', acc_change, -acc_change FROM compared WHERE every_task
    UNION ALL
    SELECT trial_id, model, method, variant, 'task:' || task, value, -value FROM tasks WHERE averaged
), rounded AS (
    SELECT * REPLACE (round(cost, 12) AS cost)  -- means of the same numbers in another order tie
    FROM figures WHERE variant <> 'dense' AND isfinite(value)
)
SELECT trial_id, model, method, variant, metric, value,
    rank() OVER (PARTITION BY model, metric ORDER BY cost) AS rank,
    count(*) OVER (PARTITION BY model, metric, cost) AS tied,
    count(*) OVER (PARTITION BY model, metric) AS trials
FROM rounded
ORDER BY model, metric, rank, trial_id;
COMMENT ON VIEW ranks IS 'one row per compressed trial and metric: its rank among the compressed trials of its model';
COMMENT ON COLUMN ranks.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN ranks.model IS 'id of the model as in the spec';
COMMENT ON COLUMN ranks.method IS 'compression method';
COMMENT ON COLUMN ranks.variant IS 'compression setting';
COMMENT ON COLUMN ranks.metric IS 'kl_nats_per_byte, bits_per_byte_change, worst_bits_per_byte_change, acc_change, or task:<task> for the main metric of one task; all but the last only for trials with all languages or tasks of their model';
COMMENT ON COLUMN ranks.value IS 'value of the metric';
COMMENT ON COLUMN ranks.rank IS '1 for the best; trials with the same value share a rank: 1, 1, 3';
COMMENT ON COLUMN ranks.tied IS 'trials with this rank, including this one';
COMMENT ON COLUMN ranks.trials IS 'trials that have a rank in this metric';

CREATE VIEW disagreement AS
WITH placed AS (
    SELECT a.model, a.metric, b.metric AS other_metric, a.trial_id, a.rank, b.rank AS other_rank
    FROM ranks a JOIN ranks b ON b.model = a.model AND b.trial_id = a.trial_id AND b.metric > a.metric
), pairs AS (
    SELECT a.model, a.metric, a.other_metric, sign(a.rank - b.rank) AS sign, sign(a.other_rank - b.other_rank) AS other_sign
    FROM placed a
    JOIN placed b ON b.model = a.model AND b.metric = a.metric AND b.other_metric = a.other_metric AND b.trial_id > a.trial_id
), tau AS (
    -- Kendall (1945): a tied pair has sign 0 and counts in neither root of its metric.
    SELECT model, metric, other_metric,
        sum(sign * other_sign) / nullif(sqrt(sum(abs(sign)) * sum(abs(other_sign))), 0) AS kendall_tau
    FROM pairs GROUP BY ALL
), counted AS (
    SELECT model, metric, other_metric, count(*) AS variants FROM placed GROUP BY ALL
), once AS (
    SELECT c.model, c.metric, c.other_metric, t.kendall_tau, c.variants
    FROM counted c
    LEFT JOIN tau t ON t.model = c.model AND t.metric = c.metric AND t.other_metric = c.other_metric
)
SELECT model, metric, other_metric, kendall_tau, variants FROM once
UNION ALL
SELECT model, other_metric, metric, kendall_tau, variants FROM once
ORDER BY ALL;
COMMENT ON VIEW disagreement IS 'one row per model and pair of metrics (in both orders): whether they put the compressed trials in the same order';
COMMENT ON COLUMN disagreement.model IS 'id of the model as in the spec';
COMMENT ON COLUMN disagreement.metric IS 'a metric of the view ranks';
COMMENT ON COLUMN disagreement.other_metric IS 'another metric of the view ranks';
COMMENT ON COLUMN disagreement.kendall_tau IS 'Kendall''s tau-b of the two rankings: 1 the same order, 0 unrelated, -1 reversed; NULL for fewer than two trials, or when all are equal in one metric';
COMMENT ON COLUMN disagreement.variants IS 'trials that have a rank in both';

CREATE VIEW contrasts AS
WITH texts AS (
    SELECT model, language, count(document) FILTER (windows > 1) >= 20 AS by_document
    FROM (SELECT model, language, document, count(DISTINCT "window") AS windows FROM windows GROUP BY ALL)
    GROUP BY ALL
), pairs AS (
    SELECT a.trial_id, a.model, a.method, a.variant, b.trial_id AS other_trial_id, b.method AS other_method,
        b.variant AS other_variant, a.language, CASE WHEN t.by_document THEN a.document ELSE a."window" END AS unit,
        sum(a.nll_nats - b.nll_nats) / ln(2) AS bits, sum(a.bytes) AS size, sum(a.kl_nats) AS kl, sum(b.kl_nats) AS other_kl
    FROM windows a
    JOIN windows b ON b.model = a.model AND b.language = a.language AND b."window" = a."window" AND b.tokens = a.tokens
    JOIN texts t ON t.model = a.model AND t.language = a.language
    WHERE a.trial_id <> b.trial_id
    GROUP BY ALL
), means AS (
    SELECT *, sum(bits) OVER pair / sum(size) OVER pair AS change, sum(kl) OVER pair AS total, sum(other_kl) OVER pair AS other_total
    FROM pairs
    WINDOW pair AS (PARTITION BY trial_id, other_trial_id, language)
), estimates AS (
    -- The variance of a ratio of sums (Cochran 1977, section 2.11), and of a logarithm of two.
    SELECT trial_id, model, method, variant, other_trial_id, other_method, other_variant, language, count(*) AS units,
        any_value(change) AS change, any_value(ln(total / nullif(other_total, 0))) AS log_kl,
        sqrt(units / (units - 1) * sum(pow(bits - change * size, 2))) / sum(size) AS error,
        sqrt(units / (units - 1) * sum(pow(kl / nullif(total, 0) - other_kl / nullif(other_total, 0), 2))) AS log_kl_error,
        -- Student's t at 97.5 %, expanded in 1 / df (Abramowitz and Stegun 1964, 26.7.5): within 0.2 % for 3, less for more.
        1 / (units - 1) AS f,
        1.959963985 + f * (2.372271 + f * (2.822499 + f * (2.555850 + f * 1.589534))) AS t
    FROM means GROUP BY ALL
)
SELECT trial_id, model, method, variant, other_trial_id, other_method, other_variant, language, units,
    change AS bits_per_byte_change,
    CASE WHEN units >= 4 THEN change - t * error END AS bits_per_byte_change_low,
    CASE WHEN units >= 4 THEN change + t * error END AS bits_per_byte_change_high,
    exp(log_kl) AS kl_ratio,
    CASE WHEN units >= 4 THEN exp(log_kl - t * log_kl_error) END AS kl_ratio_low,
    CASE WHEN units >= 4 THEN exp(log_kl + t * log_kl_error) END AS kl_ratio_high
FROM estimates
ORDER BY ALL;
COMMENT ON VIEW contrasts IS 'one row per two trials of a model (in both orders) and language: what the one has more than the other on the same windows. Name both trials in a query: a large study has many pairs';
COMMENT ON COLUMN contrasts.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN contrasts.model IS 'id of the model as in the spec';
COMMENT ON COLUMN contrasts.method IS 'compression method';
COMMENT ON COLUMN contrasts.variant IS 'compression setting';
COMMENT ON COLUMN contrasts.other_trial_id IS 'the trial that it is compared with';
COMMENT ON COLUMN contrasts.other_method IS 'its compression method';
COMMENT ON COLUMN contrasts.other_variant IS 'its compression setting';
COMMENT ON COLUMN contrasts.language IS 'language of the text';
COMMENT ON COLUMN contrasts.units IS 'windows of both trials, or documents where 20 of these have several windows';
COMMENT ON COLUMN contrasts.bits_per_byte_change IS 'bits per byte - those of the other trial';
COMMENT ON COLUMN contrasts.bits_per_byte_change_low IS 'lower end of its 95 % interval over paired windows; NULL for fewer than 4';
COMMENT ON COLUMN contrasts.bits_per_byte_change_high IS 'upper end of that interval';
COMMENT ON COLUMN contrasts.kl_ratio IS 'KL(dense || this trial) / KL(dense || the other); NULL for dense itself';
COMMENT ON COLUMN contrasts.kl_ratio_low IS 'lower end of its 95 % interval over paired windows';
COMMENT ON COLUMN contrasts.kl_ratio_high IS 'upper end of that interval';

CREATE VIEW agreement AS
WITH texts AS (
    SELECT trial_id, list(language ORDER BY language) AS languages FROM fidelity GROUP BY trial_id
), named AS (
    SELECT l.*, t.backend, t.backend_version, t.position,
        CASE WHEN suffix(l.variant, '@' || t.backend) THEN left(l.variant, length(l.variant) - length(t.backend) - 1)
             ELSE l.variant END AS setting
    FROM leaderboard l JOIN trials t ON t.trial_id = l.trial_id
), several AS (
    SELECT n.* REPLACE (s.peak_memory_bytes AS peak_memory_bytes), x.languages AS texts,
        min(n.position) OVER of_setting AS place
    FROM named n
    LEFT JOIN steps s ON s.trial_id = n.trial_id AND s.kind = 'compress'
    LEFT JOIN texts x ON x.trial_id = n.trial_id
    WINDOW of_setting AS (PARTITION BY n.model, n.setting)
    QUALIFY min(n.backend) OVER of_setting <> max(n.backend) OVER of_setting
)
SELECT
    b.trial_id, b.model, b.method, b.variant, b.setting, b.backend, b.backend_version, b.seed, b.state,
    b.kl_nats, b.ppl_ratio, b.acc_change, b.bits_per_weight, b.sparsity, b.compress_seconds, b.peak_memory_bytes,
    -- A mean over two languages is not comparable with one over seven: a ratio needs means over the same languages.
    CASE WHEN ours.texts = b.texts AND ours.kl_nats >= 0 AND b.kl_nats > 0 AND isfinite(ours.kl_nats) AND isfinite(b.kl_nats)
         THEN ours.kl_nats / b.kl_nats END AS kl_ratio,
    CASE WHEN ours.compress_seconds > 0 AND b.compress_seconds > 0
              AND isfinite(ours.compress_seconds) AND isfinite(b.compress_seconds)
         THEN b.compress_seconds / ours.compress_seconds END AS speedup,
    CASE WHEN ours.peak_memory_bytes > 0 AND b.peak_memory_bytes > 0
         THEN ours.peak_memory_bytes / b.peak_memory_bytes END AS memory_ratio
FROM several b
LEFT JOIN several ours ON ours.model = b.model AND ours.setting = b.setting AND ours.backend = 'studyctl'
    AND ours.seed IS NOT DISTINCT FROM b.seed
ORDER BY b.place, b.seed NULLS FIRST, b.backend <> 'studyctl', b.position;
COMMENT ON VIEW agreement IS 'one row per trial whose setting several backends compress, compared with studyctl''s trial of the same seed';
COMMENT ON COLUMN agreement.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN agreement.model IS 'id of the model as in the spec';
COMMENT ON COLUMN agreement.method IS 'compression method';
COMMENT ON COLUMN agreement.variant IS 'compression setting, with @ and the backend where that is not studyctl';
COMMENT ON COLUMN agreement.setting IS 'compression setting alone: the same for all of its backends';
COMMENT ON COLUMN agreement.backend IS 'whose implementation compressed it';
COMMENT ON COLUMN agreement.backend_version IS 'version of that implementation';
COMMENT ON COLUMN agreement.seed IS 'seed of the random choices; NULL when nothing is drawn';
COMMENT ON COLUMN agreement.state IS 'pending, running, done, failed or stopped';
COMMENT ON COLUMN agreement.kl_nats IS 'mean KL(dense || compressed) per token, mean over the languages';
COMMENT ON COLUMN agreement.ppl_ratio IS 'perplexity / dense perplexity, geometric mean over the languages; NULL if one of them is not finite';
COMMENT ON COLUMN agreement.acc_change IS 'change of acc against the dense model, mean over the tasks measured for both';
COMMENT ON COLUMN agreement.bits_per_weight IS 'mean bits per weight of the block linears, with scales, zero points and masks';
COMMENT ON COLUMN agreement.sparsity IS 'fraction of the weights that is zero, 0 to 1';
COMMENT ON COLUMN agreement.compress_seconds IS 'time of the compress step';
COMMENT ON COLUMN agreement.peak_memory_bytes IS 'highest memory of the process during the compress step';
COMMENT ON COLUMN agreement.kl_ratio IS 'kl_nats of studyctl / of this backend: below 1, studyctl''s is closer to dense; NULL unless both have the same languages';
COMMENT ON COLUMN agreement.speedup IS 'compress_seconds of this backend / of studyctl: above 1, studyctl is faster';
COMMENT ON COLUMN agreement.memory_ratio IS 'peak_memory_bytes of studyctl / of this backend: below 1, studyctl needs less';

CREATE VIEW deployment AS
WITH distances AS (
    SELECT r.trial_id, avg(r.kl_nats) AS runtime_kl_nats, avg(w.kl_nats) AS same_windows_kl_nats
    FROM runtime_fidelity r
    LEFT JOIN LATERAL (
        SELECT sum(w.kl_nats) / sum(w.tokens) AS kl_nats FROM windows w
        WHERE w.trial_id = r.trial_id AND w.language = r.language AND w.place < r.windows
    ) w ON true
    GROUP BY r.trial_id
)
SELECT
    t.trial_id, t.model, t.method, t.variant,
    t.file_mib, t.embedding_share, t.why_no_file,
    l.kl_nats, d.runtime_kl_nats, d.same_windows_kl_nats, l.acc, l.acc_change,
    s.cpu, s.host, s.runtime, s.build, s.threads, s.prompt, s.generate, s.rounds, s.load_seconds,
    s.resident_bytes / 1048576 AS resident_mib,
    s.prefill_rate, s.prefill_ratio, s.prefill_low, s.prefill_high, s.prefill_verdict, s.prefill_itself_low, s.prefill_itself_high,
    s.decode_rate, s.decode_ratio, s.decode_low, s.decode_high, s.decode_verdict, s.decode_itself_low, s.decode_itself_high,
    s.error AS why_no_speed, s."at" AS timed_at,
    CASE WHEN t.file_mib IS NOT NULL THEN 'loads' ELSE t.why_no_file END AS llama_cpp,
    t.transformers, t.vllm_gpu, t.vllm_cpu
FROM trials t
JOIN leaderboard l ON l.trial_id = t.trial_id
LEFT JOIN distances d ON d.trial_id = t.trial_id
LEFT JOIN speed s ON s.trial_id = t.trial_id
ORDER BY t.position, s.cpu, s.runtime, s.build, s.prompt, s.generate, s.threads;
COMMENT ON VIEW deployment IS 'one row per trial (and, if its file was timed, per processor, runtime, settings and number of threads): the file that is deployed, how good, large and fast it is, and what loads the trial';
COMMENT ON COLUMN deployment.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN deployment.model IS 'id of the model as in the spec';
COMMENT ON COLUMN deployment.method IS 'compression method';
COMMENT ON COLUMN deployment.variant IS 'compression setting';
COMMENT ON COLUMN deployment.file_mib IS 'MiB of the GGUF file';
COMMENT ON COLUMN deployment.embedding_share IS 'fraction of it that the matrices over the vocabulary take';
COMMENT ON COLUMN deployment.why_no_file IS 'why GGUF cannot hold it';
COMMENT ON COLUMN deployment.kl_nats IS 'mean KL(dense || compressed) per token, mean over the languages, computed by torch';
COMMENT ON COLUMN deployment.runtime_kl_nats IS 'the same of what the runtime computes of the file, over the first windows of each language; of dense: how the runtime rounds';
COMMENT ON COLUMN deployment.same_windows_kl_nats IS 'what torch computes on these windows: the difference is the runtime''s';
COMMENT ON COLUMN deployment.acc IS 'mean accuracy over the tasks';
COMMENT ON COLUMN deployment.acc_change IS 'its change against dense';
COMMENT ON COLUMN deployment.cpu IS 'processor that the file was timed on; NULL: it was not timed';
COMMENT ON COLUMN deployment.host IS 'computer';
COMMENT ON COLUMN deployment.runtime IS 'llama.cpp';
COMMENT ON COLUMN deployment.build IS 'hash of its libraries';
COMMENT ON COLUMN deployment.threads IS 'threads of the runtime';
COMMENT ON COLUMN deployment.prompt IS 'tokens of the prompt';
COMMENT ON COLUMN deployment.generate IS 'tokens generated after it';
COMMENT ON COLUMN deployment.rounds IS 'rounds in which the file was timed';
COMMENT ON COLUMN deployment.load_seconds IS 'wall time to load the file';
COMMENT ON COLUMN deployment.resident_mib IS 'MiB of memory (RSS) that the runtime took on, after the prompt';
COMMENT ON COLUMN deployment.prefill_rate IS 'tokens of a prompt per second';
COMMENT ON COLUMN deployment.prefill_ratio IS 'that speed / dense''s';
COMMENT ON COLUMN deployment.prefill_low IS 'lower end of its 95 % interval over rounds';
COMMENT ON COLUMN deployment.prefill_high IS 'upper end';
COMMENT ON COLUMN deployment.prefill_verdict IS 'faster, slower, =, not told apart, or the machine was too busy (table speed)';
COMMENT ON COLUMN deployment.prefill_itself_low IS 'lower end of the 95 % interval of dense against itself';
COMMENT ON COLUMN deployment.prefill_itself_high IS 'upper end';
COMMENT ON COLUMN deployment.decode_rate IS 'tokens generated per second';
COMMENT ON COLUMN deployment.decode_ratio IS 'that speed / dense''s';
COMMENT ON COLUMN deployment.decode_low IS 'lower end of its 95 % interval over rounds';
COMMENT ON COLUMN deployment.decode_high IS 'upper end';
COMMENT ON COLUMN deployment.decode_verdict IS 'as prefill_verdict';
COMMENT ON COLUMN deployment.decode_itself_low IS 'lower end of the 95 % interval of dense against itself';
COMMENT ON COLUMN deployment.decode_itself_high IS 'upper end';
COMMENT ON COLUMN deployment.why_no_speed IS 'why the file could not be timed';
COMMENT ON COLUMN deployment.timed_at IS 'when the session began, UTC';
COMMENT ON COLUMN deployment.llama_cpp IS 'loads, or why llama.cpp does not load the trial; NULL: not known yet';
COMMENT ON COLUMN deployment.transformers IS 'loads, or why transformers does not load an exported folder';
COMMENT ON COLUMN deployment.vllm_gpu IS 'the same of vLLM on an NVIDIA GPU';
COMMENT ON COLUMN deployment.vllm_cpu IS 'the same of vLLM on a CPU';

CREATE VIEW activation_snr AS
SELECT
    trial_id, model, method, variant, language,
    -- A block without noise has no ratio: a mean over the others would hide how near to dense it is.
    CASE WHEN count(snr_db) = count(*) THEN avg(snr_db) END AS snr_db,
    CASE WHEN count(relative_error) = count(*) THEN avg(relative_error) END AS relative_error,
    arg_max(block, relative_error) AS worst_block,
    max(relative_error) AS worst_relative_error,
    count(*) AS blocks,
    any_value(tokens) AS tokens
FROM activations
GROUP BY trial_id, model, method, variant, language
ORDER BY min(rowid);  -- as planned
COMMENT ON VIEW activation_snr IS 'one row per compressed trial and language: distance of hidden states to the dense model''s, mean over the decoder blocks (table activations)';
COMMENT ON COLUMN activation_snr.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN activation_snr.model IS 'id of the model as in the spec';
COMMENT ON COLUMN activation_snr.method IS 'compression method';
COMMENT ON COLUMN activation_snr.variant IS 'compression setting';
COMMENT ON COLUMN activation_snr.language IS 'language of the text';
COMMENT ON COLUMN activation_snr.snr_db IS 'signal-to-noise ratio in dB, mean over the blocks; NULL if a block has none';
COMMENT ON COLUMN activation_snr.relative_error IS 'relative error, mean over the blocks';
COMMENT ON COLUMN activation_snr.worst_block IS 'block with the largest relative error';
COMMENT ON COLUMN activation_snr.worst_relative_error IS 'that error';
COMMENT ON COLUMN activation_snr.blocks IS 'decoder blocks';
COMMENT ON COLUMN activation_snr.tokens IS 'tokens that were compared';

CREATE VIEW stages AS
SELECT trial_id, model, method, variant, step AS stage, state, seconds, peak_memory_bytes, attempt, finished_at, key, weights_hash
FROM steps;
COMMENT ON VIEW stages IS 'the table steps under its old name, from before version 0.2';
COMMENT ON COLUMN stages.trial_id IS 'trial: a model times a variant (times a seed)';
COMMENT ON COLUMN stages.model IS 'id of the model as in the spec';
COMMENT ON COLUMN stages.method IS 'compression method';
COMMENT ON COLUMN stages.variant IS 'compression setting';
COMMENT ON COLUMN stages.stage IS 'load, compress, perplexity:<language>, activations:<language>, task:<task>, deploy or export';
COMMENT ON COLUMN stages.state IS 'pending, running, done, failed or stopped';
COMMENT ON COLUMN stages.seconds IS 'time of the step itself, without imports and loading';
COMMENT ON COLUMN stages.peak_memory_bytes IS 'highest memory of the process while it ran';
COMMENT ON COLUMN stages.attempt IS 'attempt whose result is current';
COMMENT ON COLUMN stages.finished_at IS 'end, UTC';
COMMENT ON COLUMN stages.key IS 'hash of everything that determines its result, except weights and windows';
COMMENT ON COLUMN stages.weights_hash IS 'hash of the weights that it made or measured';
