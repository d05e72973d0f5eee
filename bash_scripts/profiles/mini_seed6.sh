# mini tuned with seed 6, by bash_scripts/mini/seeds.sh
inherit=mini
model_path=checkpoints/mini/seed6/model
reference_model=checkpoints/mini/seed6/steps/step-000
training_steps=checkpoints/mini/seed6/steps
result_path=results/mini/seed6
