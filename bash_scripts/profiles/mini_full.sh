# mini on the samples of docs/results.md; bash_scripts/mini/measure.sh makes them. Hours.
inherit=mini
result_path=results/mini/full
attribution_images=400
attribution_captions=120
random_draws=2
report_images=500
batch_size=50
